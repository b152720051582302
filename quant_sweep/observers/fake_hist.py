"""A percentile of each batch, averaged over the batches: the study's "lite version of HistogramObserver".

The study takes torch.kthvalue of every batch; here the k-th value comes from the batch's histogram, within one bin.
Of more than 64 batches the last 64 count: with momentum 0.1 those before them would weigh 0.1 % together.
"""

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
class FakeHist(Observer):
    """Percentile clipping with a running average.

    Attributes:
        percentile: hi is the value that this percentage of a batch does not exceed; lo mirrors it from below.
        momentum: weight of each new batch in the running average; the first of the last 64 starts it.

    Raises:
        InputError: percentile is not in (50, 100], momentum not in (0, 1].
    """

    between_batches: ClassVar = ("momentum",)
    percentile: float = 99.99
    momentum: float = 0.1

    def __post_init__(self) -> None:
        if not 50.0 < self.percentile <= 100.0:
            raise InputError(f"percentile={self.percentile}: allowed are values above 50, up to 100")
        if not 0.0 < self.momentum <= 1.0:
            raise InputError(f"momentum={self.momentum}: allowed are values above 0, up to 1")

    def range(self, summary: Summary, spec: QuantSpec) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        upper = self.percentile / 100
        first, *others = summary.recent
        lo, hi = first.quantile(1 - upper), first.quantile(upper)
        for batch in others:
            lo = lo + self.momentum * (batch.quantile(1 - upper) - lo)
            hi = hi + self.momentum * (batch.quantile(upper) - hi)
        return lo, torch.maximum(lo, hi)  # float rounding may part them by an ulp
