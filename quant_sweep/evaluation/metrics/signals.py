"""Metrics of outputs that are numbers: errors against targets, and against the float network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.errors import InputError
from quant_sweep.evaluation.metrics.base import Batch, Kind, Metric, Need, named_outputs

TARGETS = ("labels", "inputs", "float")


@final
@dataclass(frozen=True)
class LogitSQNR(Metric):
    """Signal-to-quantization-noise ratio of the outputs, 10 log10(sum y^2 / sum (y - y_quantized)^2), dB."""

    name: ClassVar[str] = "logit_sqnr"
    unit: ClassVar[str] = "dB"
    higher_is_better: ClassVar[bool] = True
    kind: ClassVar[Kind] = "other"
    has_float_value: ClassVar[bool] = False  # float has no noise

    def statistics(self, batch: Batch) -> Tensor:
        return signal_and_noise(self.read(batch.outputs), self.read(batch.original))

    def value(self, mean: Tensor) -> Tensor:
        return 10 * torch.log10(mean[0] / mean[1])

    def gradient(self, mean: Tensor) -> Tensor:
        return 10 / math.log(10) * torch.stack([1 / mean[0], -1 / mean[1]])


@dataclass(frozen=True)
class _AgainstTarget(Metric):
    """Squared error against a target.

    Attributes:
        target: `labels`; `inputs`, for autoencoders; `float`, what the float network returns. None: the labels where
            the data has any, else the inputs.
    """

    target: str | None = None
    needs: ClassVar[Need] = "targets"

    def reads_inputs(self, labelled: bool) -> bool:
        return self.target == "inputs" or (self.target is None and not labelled)

    def squared_error(self, batch: Batch) -> Tensor:
        """Mean over the numbers of each sample, float64 (n, 1)."""
        outputs, target = self.read(batch.outputs), self.target_of(batch)
        return (rows(outputs) - rows(target.to(outputs.device))).square().mean(dim=1, keepdim=True).cpu()

    def target_of(self, batch: Batch) -> Tensor:
        """What the outputs should be, in their shape.

        Raises:
            InputError: there is no such target.
        """
        if self.target not in (None, *TARGETS):
            raise InputError(f"metric.target={self.target}: allowed are {', '.join(TARGETS)} and null")
        outputs = self.read(batch.outputs)
        chosen = self.target or ("labels" if batch.labels is not None else "inputs")
        found = {"labels": batch.labels, "inputs": batch.inputs, "float": None}[chosen]
        target = self.read(batch.original) if chosen == "float" else found
        if isinstance(target, Tensor) and target.shape != outputs.shape and target.numel() == outputs.numel():
            target = target.reshape(outputs.shape) if _squeezed(target) == _squeezed(outputs) else target
        if not isinstance(target, Tensor) or target.shape != outputs.shape:
            shape = tuple(target.shape[1:]) if isinstance(target, Tensor) else "nothing"
            raise InputError(
                f"metric.target={self.target or 'null'}: the {chosen} are {shape}, and the network returns "
                f"{tuple(outputs.shape[1:])}; both have to have one shape, allowed are {', '.join(TARGETS)}"
            )
        return target

    def check(self, batch: Batch, classes: int) -> None:
        self.target_of(batch)
        del classes


@final
@dataclass(frozen=True)
class SquaredError(_AgainstTarget):
    """Mean squared error, in the target's own unit squared."""

    name: ClassVar[str] = "mse"
    unit: ClassVar[str] = ""
    higher_is_better: ClassVar[bool] = False
    kind: ClassVar[Kind] = "mean"

    def statistics(self, batch: Batch) -> Tensor:
        return self.squared_error(batch)


@final
@dataclass(frozen=True)
class PSNR(_AgainstTarget):
    """Peak signal-to-noise ratio over all samples, 10 log10(range^2 / mean squared error), dB.

    Attributes:
        range: between the lowest and the highest value that a target may have; 1 or 255 for most images.
    """

    range: float = 1.0

    name: ClassVar[str] = "psnr"
    unit: ClassVar[str] = "dB"
    higher_is_better: ClassVar[bool] = True
    kind: ClassVar[Kind] = "other"

    def statistics(self, batch: Batch) -> Tensor:
        return self.squared_error(batch)

    def value(self, mean: Tensor) -> Tensor:
        return 10 * torch.log10(self.range**2 / mean[0])

    def gradient(self, mean: Tensor) -> Tensor:
        return -10 / math.log(10) / mean

    def check(self, batch: Batch, classes: int) -> None:
        if not self.range > 0:
            raise InputError(f"metric.range={self.range}: allowed are numbers above 0")
        super().check(batch, classes)


def rows(tensor: Tensor) -> Tensor:
    """The numbers of each sample side by side, float64 (n, k); one of each if they have no axis of their own, (n,)."""
    return tensor.double().unsqueeze(-1).flatten(1)


def signal_and_noise(outputs: Tensor, original: Tensor) -> Tensor:
    """Sums of squares of the float network's numbers, and of what quantization changed, float64 (n, 2)."""
    wanted = rows(original.to(outputs.device))
    noise = rows(outputs) - wanted
    return torch.stack([wanted.square().sum(dim=1), noise.square_().sum(dim=1)], dim=1).cpu()


def power_of(metric: Metric, outputs: Any, original: Any) -> Tensor:
    """`signal_and_noise` of the tensor that a metric reads; of all, where it reads several; 0 if none is floating."""
    if metric.output is not None or isinstance(outputs, Tensor):
        return signal_and_noise(metric.read(outputs), metric.read(original))
    found, wanted = named_outputs(outputs), named_outputs(original)
    none = torch.zeros(len(pytree.tree_leaves(outputs)[0]), 2, dtype=torch.float64)
    return sum((signal_and_noise(found[name], wanted[name]) for name in found), none)


def _squeezed(tensor: Tensor) -> tuple[int, ...]:
    return tuple(size for size in tensor.shape[1:] if size != 1)
