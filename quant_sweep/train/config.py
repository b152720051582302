"""A training recipe, and the learning rate that it prescribes for each step.

Recipes live in `conf/train/*.yaml`, which is why the fields here have no defaults.
"""

import math
from dataclasses import dataclass
from typing import Any, final

from quant_sweep.errors import InputError
from quant_sweep.runtime.kinds import fits, is_whole

__all__ = ["TrainConfig", "learning_rate"]

SCHEDULES = ("one_cycle", "cosine")
PRECISIONS = ("float32", "bf16")
# one_cycle starts at lr / 25 and ends 10,000 times lower still, as torch.optim.lr_scheduler.OneCycleLR does
ONE_CYCLE_START = 1 / 25
ONE_CYCLE_END = ONE_CYCLE_START / 1e4


@final
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """A recipe for SGD.

    epochs: passes over the training images.
    batch_size: images per step.
    lr: the highest learning rate.
    momentum: of SGD; 0 means plain SGD.
    nesterov: look ahead along the momentum.
    weight_decay: L2 penalty on the weights of convolutions and linear layers, not on BatchNorm and biases.
    schedule: one_cycle or cosine, see `learning_rate`.
    warmup: fraction of all steps in which the learning rate rises to `lr`.
    label_smoothing: probability taken from the right class and spread over all.
    crop_padding: black pixels on each side before the random crop; 0 crops nothing.
    flip: mirror half of the images left to right.
    cutout: side of the square that is painted over, in pixels; 0 paints nothing.
    precision: float32, or bf16 for the forward and backward pass under autocast.
    seed: of order, augmentation and dropout; the initial weights are the caller's.

    Raises:
        InputError: a value outside what is allowed, named `train.<field>`.
    """

    epochs: int
    batch_size: int
    lr: float
    momentum: float
    nesterov: bool
    weight_decay: float
    schedule: str
    warmup: float
    label_smoothing: float
    crop_padding: int
    flip: bool
    cutout: int
    precision: str
    seed: int

    def __post_init__(self) -> None:
        for name, lowest in (("epochs", 1), ("batch_size", 1), ("crop_padding", 0), ("cutout", 0), ("seed", 0)):
            self._require(name, is_whole(getattr(self, name), lowest), f"a whole number from {lowest}")
        self._require("lr", _is_number(self.lr) and self.lr > 0, "a number above 0")
        self._require("weight_decay", _is_number(self.weight_decay) and self.weight_decay >= 0, "a number from 0")
        for name in ("momentum", "warmup", "label_smoothing"):
            value = getattr(self, name)
            self._require(name, _is_number(value) and 0 <= value < 1, "a number from 0 to below 1")
        for name in ("flip", "nesterov"):
            self._require(name, isinstance(getattr(self, name), bool), "true or false")
        self._require("nesterov", not (self.nesterov and self.momentum == 0), "false when train.momentum=0")
        self._require("schedule", self.schedule in SCHEDULES, " or ".join(SCHEDULES))
        self._require("precision", self.precision in PRECISIONS, " or ".join(PRECISIONS))

    def _require(self, name: str, holds: bool, allowed: str) -> None:
        if not holds:
            raise InputError(f"train.{name}={getattr(self, name)}: not possible; allowed: {allowed}")


def learning_rate(config: TrainConfig, step: int, steps: int) -> float:
    """The learning rate of one step of SGD.

    `one_cycle` rises along a half cosine from lr / 25 and falls along another to almost 0 at the last step (Smith and
    Topin 2018, arXiv:1708.07120, in the two-phase form of PyTorch's OneCycleLR). `cosine` rises linearly from near 0
    (Goyal et al. 2017, arXiv:1706.02677, section 2.2) and falls along a half cosine (Loshchilov and Hutter 2017,
    arXiv:1608.03983, without restarts).

    Args:
        step: 0 to steps - 1.
        steps: of the whole training.
    """
    if config.schedule == "one_cycle":
        peak = config.warmup * steps - 1  # the step that has lr itself; not whole in general
        if step <= peak and peak > 0:
            return config.lr * _half_cosine(ONE_CYCLE_START, 1.0, step / peak)
        start = max(peak, 0.0)
        return config.lr * _half_cosine(1.0, ONE_CYCLE_END, (step - start) / max(steps - 1 - start, 1.0))
    rising = config.warmup * steps
    if step < rising:
        return config.lr * min(1.0, (step + 1) / rising)
    return config.lr * _half_cosine(1.0, 0.0, (step - rising) / (steps - rising))


def _half_cosine(start: float, end: float, fraction: float) -> float:
    return end + (start - end) * (1 + math.cos(math.pi * fraction)) / 2


def _is_number(value: Any) -> bool:
    return fits(value, float) and math.isfinite(value)
