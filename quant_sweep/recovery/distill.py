"""`distill`: grids, biases and, if asked for, codes are learned so that the logits are those of the float network.

Adam on the Kullback-Leibler divergence of the two networks' classes at a temperature, over calibration images, mirrored
and shifted at random; no labels. A grid of fewer bits is coarser and learns faster: rates halve with every bit, and are
higher at 2 bits, where most is to be won back.

Sources: Hinton et al. 2015, arXiv:1503.02531; for scales LSQ, Esser et al. 2020, arXiv:1902.08153.
Leaves out: going on with a learning that was interrupted, which begins anew.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quant_sweep.errors import InputError
from quant_sweep.graph import Network, QuantGraph
from quant_sweep.recovery.base import OnGrids, Recovery, check_whole
from quant_sweep.recovery.learned import LearnedNetwork
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.progress import tracked

log = logging.getLogger(__name__)

_STEPS, _CODES = 2.0, 2.0  # of the rate of a scale: that of activation steps and of codes
_WARM_UP = 0.05  # of the steps, in which the rates rise; then they fall as a cosine
_SHIFT = 4  # most pixels by which an image of 32 pixels or more is shifted, each way; an eighth of smaller ones


@final
@dataclass(frozen=True)
class Distill(Recovery):
    """Learning from the float network.

    Attributes:
        codes: learn the codes of weights, too, which needs more steps.
        steps: of the optimizer.
        batch_size: images a step.
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
    rate: float = 1.0
    temperature: float = 4.0
    augment: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("codes", "augment"):
            if not isinstance(getattr(self, name), bool):
                raise InputError(f"{name}={getattr(self, name)!r}: allowed are true and false")
        check_whole(self, steps=1, batch_size=1, seed=0)
        for name, lowest_real in (("rate", 0.0), ("temperature", 1.0)):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int | float) or not lowest_real <= value < 1000:
                raise InputError(f"{name}={value!r}: allowed are numbers from {lowest_real:g} to below 1000")

    @full_precision()
    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        device = batches[0].device
        teacher = Network(original.graph).to(device)
        student = LearnedNetwork(quantized, self.codes, device)
        optimizer = torch.optim.Adam(_parameter_groups(student, self.rate))
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _share_of_rate(step, self.steps))
        seen = self._images(torch.cat(list(batches)))
        for step, images in enumerate(tracked(seen, "recovery distill", self.steps)):
            with torch.no_grad():
                wanted = pytree.tree_leaves(teacher(images))
            found = pytree.tree_leaves(student(images))
            loss = torch.stack([_loss(y, z, self.temperature) for y, z in zip(wanted, found, strict=True)]).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            if (step + 1) * 4 // self.steps > step * 4 // self.steps:
                log.info("recovery distill: step %d of %d, loss %.4g", step + 1, self.steps, float(loss.detach()))
        return student.on_grids()

    def _images(self, images: Tensor) -> Iterator[Tensor]:
        """What each step sees; every image once before any a second time."""
        generator = torch.Generator().manual_seed(self.seed)
        order = torch.empty(0, dtype=torch.int64)
        for _ in range(self.steps):
            while len(order) < min(self.batch_size, len(images)):
                order = torch.cat([order, torch.randperm(len(images), generator=generator)])
            chosen, order = order[: self.batch_size], order[self.batch_size :]
            batch = images[chosen.to(images.device)]
            yield _mirrored_and_shifted(batch, generator) if self.augment and batch.dim() == 4 else batch


def _parameter_groups(student: LearnedNetwork, rate: float) -> list[dict[str, Any]]:
    """Every parameter with its rate."""

    def group(parameter: nn.Parameter, times: float, bits: int) -> dict[str, Any]:
        return {"params": [parameter], "lr": rate * times * rate_of_scale(bits)}

    bits = [grid.spec.bits for grid in student.grids]
    groups = [group(scale, 1.0, b) for scale, b in zip(student.scales, bits, strict=True)]
    groups += [group(bias, 1.0, min(bits, default=8)) for bias in student.biases]
    for name, step in student.steps.items():
        groups.append(group(step.log_scale, _STEPS, student.quantized.qparams[name].spec.bits))
    if student.codes:
        groups += [group(latent, _CODES, b) for latent, b in zip(student.latents, bits, strict=True)]
    return groups


def rate_of_scale(bits: int) -> float:
    """Of the logarithm of a scale, a step; measured on a CIFAR-10 ResNet-20."""
    return 0.01 if bits <= 2 else 0.0015 * 2.0 ** (3 - bits)


def _share_of_rate(step: int, steps: int) -> float:
    warm_up = max(round(_WARM_UP * steps), 1)
    if step < warm_up:
        return (step + 1) / warm_up
    return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1)))


def _loss(wanted: Tensor, found: Tensor, temperature: float) -> Tensor:
    """Of logits (n, classes) the divergence at a temperature T, times T^2; else the squared error's share."""
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        p, q = (F.log_softmax(logits / temperature, dim=1) for logits in (wanted, found))
        return F.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2
    return (wanted - found).square().sum() / wanted.square().sum().clamp(min=1e-30)


def _mirrored_and_shifted(images: Tensor, generator: torch.Generator) -> Tensor:
    """Each image, (n, c, h, w), mirrored or not, and moved by some pixels, zeros coming in."""
    count, _, height, width = images.shape
    most = [min(_SHIFT, size // 8) for size in (height, width)]
    device = images.device
    mirrored = (torch.rand(count, generator=generator) < 0.5).to(device)
    images = torch.where(mirrored[:, None, None, None], images.flip(3), images)
    rows, columns = (
        torch.randint(0, 2 * far + 1, (count, 1), generator=generator) + torch.arange(size)
        for far, size in zip(most, (height, width), strict=True)
    )
    padded = F.pad(images, (most[1], most[1], most[0], most[0]))
    image = torch.arange(count, device=device)[:, None, None]
    moved = padded[image, :, rows.to(device)[:, :, None], columns.to(device)[:, None, :]]  # (n, h, w, c)
    return moved.permute(0, 3, 1, 2).contiguous()  # torch 2.14 damages memory in derivatives of channels side by side
