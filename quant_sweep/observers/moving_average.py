"""Minimum and maximum of each batch, averaged over the batches: one extreme batch counts for little."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.errors import InputError
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers.base import Observer


@final
@dataclass(frozen=True)
class MovingAverage(Observer):
    """Exponential moving average of batch extremes, as torch.ao's MovingAverageMinMaxObserver.

    Attributes:
        averaging_constant: weight of each new batch; the first batch starts the average.

    Raises:
        InputError: averaging_constant is not in (0, 1].

    Source: Jacob et al. 2018, section 3.1.
    """

    between_batches: ClassVar = ("averaging_constant",)
    averaging_constant: float = 0.01

    def __post_init__(self) -> None:
        if not 0.0 < self.averaging_constant <= 1.0:
            raise InputError(f"averaging_constant={self.averaging_constant}: allowed are values above 0, up to 1")

    def range(self, summary: Summary, spec: QuantSpec) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        lo, hi = summary.batch_lo[0], summary.batch_hi[0]
        for batch_lo, batch_hi in zip(summary.batch_lo[1:], summary.batch_hi[1:], strict=True):
            lo = lo + self.averaging_constant * (batch_lo - lo)
            hi = hi + self.averaging_constant * (batch_hi - hi)
        return lo, torch.maximum(lo, hi)  # float rounding may part them by an ulp
