"""`distill`: grids, biases and, if asked for, codes are learned so that the logits are those of the float network.

Adam on the Kullback-Leibler divergence of the two networks' classes at a temperature, over training images, mirrored
and shifted at random; no labels. The thousand images of a calibration are too few: the learning fits them alone.

Sources: Hinton et al. 2015, arXiv:1503.02531; for scales LSQ, Esser et al. 2020, arXiv:1902.08153.
"""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quant_sweep.errors import InputError
from quant_sweep.graph import Network, QuantGraph
from quant_sweep.recovery.base import Learner, LearningTask, OnGrids, check_whole
from quant_sweep.recovery.divergence import TEMPERATURE, divergence
from quant_sweep.recovery.learned import LearnedNetwork
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.progress import tracked

log = logging.getLogger(__name__)

_STEPS = 2.0  # of the rate of a scale: that of activation steps
_WARM_UP = 0.05  # of the steps, in which the rates rise; then they fall as a cosine
_SHIFT = 4  # most pixels by which an image of 32 pixels or more is shifted, each way; an eighth of smaller ones


@final
@dataclass(frozen=True)
class Distill(Learner):
    """Learning from the float network.

    Attributes:
        codes: learn the codes of weights, too, which needs more steps.
        steps: of the optimizer.
        batch_size: images a step.
        images: to learn from at most, those of calibration among them.
        rate: multiplies all learning rates.
        temperature: by which logits are divided; 1 and above.
        augment: mirror and shift the images, if they are such.
        seed: of order and augmentation.

    Raises:
        InputError: a value is not allowed.
    """

    codes: bool = False
    steps: int = 100
    batch_size: int = 64
    images: int = 65536
    rate: float = 1.0
    temperature: float = TEMPERATURE
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("codes", "augment"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)!r}: allowed are true and false")
        check_whole(self, steps=1, batch_size=1, images=1, seed=0)
        for name, lowest_real in (("rate", 0.0), ("temperature", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not lowest_real <= value < 1000:
                raise InputError(f"{name}={value!r}: allowed are numbers from {lowest_real:g} to below 1000")

    @full_precision()
    def learn(self, original: QuantGraph, quantized: OnGrids, task: LearningTask) -> OnGrids:
        inputs, saved = task.inputs, task.saved
        order, seeds = self._drawn(len(inputs))
        device = inputs[order[0]].device
        teacher = Network(original.graph).to(device)
        student = LearnedNetwork(quantized, self.codes, device)
        optimizer = torch.optim.Adam(_parameter_groups(student, self.rate))
        begun = saved.read()
        done = 0 if begun is None else _restore(optimizer, begun)
        if done:
            log.info("recovery distill: goes on after step %d of %d", done, self.steps)
        for step in tracked(range(done, self.steps), "recovery distill", self.steps - done):
            images = self._augmented(inputs[order[step]], int(seeds[step]))
            with torch.no_grad():
                wanted = pytree.tree_leaves(teacher(images))
            found = pytree.tree_leaves(student(images))
            loss = torch.stack([divergence(y, z, self.temperature) for y, z in zip(wanted, found, strict=True)]).sum()
            for group in optimizer.param_groups:
                group["lr"] = group["highest"] * _share_of_rate(step, self.steps)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            saved.write(functools.partial(_state, optimizer, step + 1))
            if (step + 1) * 4 // self.steps > step * 4 // self.steps:
                log.info("recovery distill: step %d of %d, loss %.4g", step + 1, self.steps, float(loss.detach()))
        return student.on_grids()

    def _drawn(self, inputs: int) -> tuple[Tensor, Tensor]:
        """Which inputs each step sees, (steps, batch), every one before any a second time; a seed for each step."""
        generator = torch.Generator().manual_seed(self.seed)
        batch = min(self.batch_size, inputs)
        rounds = -(-self.steps * batch // inputs)
        order = torch.cat([torch.randperm(inputs, generator=generator) for _ in range(rounds)])
        seeds = torch.randint(2**62, (self.steps,), generator=generator)
        return order[: self.steps * batch].view(self.steps, batch), seeds

    def _augmented(self, images: Tensor, seed: int) -> Tensor:
        if self.augment and images.dim() == 4:
            images = _mirrored_and_shifted(images, torch.Generator().manual_seed(seed))
        return images.contiguous()  # torch 2.14 damages memory in derivatives of channels side by side


def _state(optimizer: torch.optim.Optimizer, done: int) -> dict[str, Tensor]:
    """What a learning needs to go on after so many steps."""
    state = {f"{number}.parameter": group["params"][0].detach() for number, group in enumerate(optimizer.param_groups)}
    for number, moments in optimizer.state_dict()["state"].items():
        state |= {f"{number}.{name}": value for name, value in moments.items()}
    return {**state, "done": torch.tensor(done)}


@torch.no_grad()
def _restore(optimizer: torch.optim.Optimizer, state: Mapping[str, Tensor]) -> int:
    """Bring parameters and optimizer to where `_state` found them; returns the number of steps done."""
    moments: dict[int, dict[str, Tensor]] = {}
    for number, group in enumerate(optimizer.param_groups):
        group["params"][0].copy_(state[f"{number}.parameter"])
        prefix = f"{number}."
        own = {key.removeprefix(prefix): value for key, value in state.items() if key.startswith(prefix)}
        moments[number] = {name: value for name, value in own.items() if name != "parameter"}
    optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    return int(state["done"])


def _parameter_groups(student: LearnedNetwork, rate: float) -> list[dict[str, Any]]:
    """Every parameter with its highest rate."""

    def group(parameter: nn.Parameter, highest: float) -> dict[str, Any]:
        return {"params": [parameter], "highest": rate * highest}

    bits = [grid.spec.bits for grid in student.grids]
    groups = [group(scale, rate_of_scale(b)) for scale, b in zip(student.scales, bits, strict=True)]
    groups += [group(bias, rate_of_scale(min(bits, default=8))) for bias in student.biases]
    for name, step in student.steps.items():
        groups.append(group(step.log_scale, _STEPS * rate_of_scale(student.quantized.qparams[name].spec.bits)))
    if student.codes:
        groups += [group(latent, rate_of_codes(b)) for latent, b in zip(student.latents, bits, strict=True)]
    return groups


def rate_of_scale(bits: int) -> float:
    """Of the logarithm of a scale, a step; measured on a CIFAR-10 ResNet-20 at 2 to 4 bits."""
    return 0.005 * 2.0 ** -max(bits - 4, 0)


def rate_of_codes(bits: int) -> float:
    """Of a code, a step; measured as `rate_of_scale`."""
    return 0.02 if bits <= 2 else 0.01


def _share_of_rate(step: int, steps: int) -> float:
    warm_up = max(round(_WARM_UP * steps), 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up)))


def _mirrored_and_shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image, (n, c, h, w), mirrored or not, and moved by some pixels, zeros coming in."""
    count, _, height, width = images.shape
    most = [min(_SHIFT, size // 8) for size in (height, width)]
    device = images.device
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    rows, columns = (
        torch.randint(2 * far + 1, (count, 1), generator=generator) + torch.arange(size)
        for far, size in zip(most, (height, width), strict=True)
    )
    padded = F.pad(images, (most[1], most[1], most[0], most[0]))
    image = torch.arange(count, device=device)[:, None, None]
    moved = padded[image, :, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]  # (n, h, w, c)
    return moved.permute(0, 3, 1, 2)
