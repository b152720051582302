"""The full range that was seen: nothing saturates, and one outlier makes every step wider."""

from dataclasses import dataclass
from typing import final

from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers.base import Observer


@final
@dataclass(frozen=True)
class MinMax(Observer):
    """Smallest and largest value over all batches, as torch.ao's MinMaxObserver."""

    def range(self, summary: Summary, spec: QuantSpec) -> tuple[Tensor, Tensor]:  # noqa: ARG002
        return summary.total.lo, summary.total.hi
