"""The error that a grid causes in one tensor, split into rounding and clipping.

Errors are shares of the signal's power, sum (x - x_quantized)^2 / sum x^2; -10 log10 of their sum is the SQNR.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import along_channels, clipped_fraction, fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import summarize_weight
from quant_sweep.histograms.expected_error import Moments, clipped_fraction_of
from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Summary


class Values(ABC):
    """A tensor whose errors can be computed."""

    @property
    @abstractmethod
    def summary(self) -> Summary:
        """What an observer is given."""

    @property
    @abstractmethod
    def histogram(self) -> Histogram:
        """Of all values together, one channel."""

    @abstractmethod
    def errors(self, grid: QParams) -> tuple[float, float]:
        """Rounding and clipping error of a grid, as shares of the signal's power; NaN where there is no signal."""

    @abstractmethod
    def clipped(self, grid: QParams) -> float:
        """Share of values more than half a step outside a grid."""


@final
@dataclass(frozen=True, eq=False)
class Weight(Values):
    """A weight, all of whose values are there; errors are exact.

    Attributes:
        values: float32, output channels first.
        channel_axis: of the grids that will be laid over it.
    """

    values: Tensor
    channel_axis: int | None

    @property
    def summary(self) -> Summary:
        return summarize_weight(self.values, self.channel_axis)

    @property
    def histogram(self) -> Histogram:
        return summarize_weight(self.values, None).total

    def errors(self, grid: QParams) -> tuple[float, float]:
        x, axis = self.values.double(), grid.spec.channel_axis
        lo, hi = (along_channels(end.double(), x, axis) for end in (grid.lo, grid.hi))
        squared = (x - fake_quantize(self.values, grid).double()) ** 2
        outside = (x < lo) | (x > hi)
        power = (x**2).sum()
        return _share(squared[~outside].sum(), power), _share(squared[outside].sum(), power)

    def clipped(self, grid: QParams) -> float:
        return float(clipped_fraction(self.values, grid).mean())


@final
@dataclass(frozen=True, eq=False)
class Activation(Values):
    """An activation as calibration summed it up; errors are those expected from its histogram."""

    seen: Summary

    @property
    def summary(self) -> Summary:
        return self.seen

    @property
    def histogram(self) -> Histogram:
        return self.seen.total

    def errors(self, grid: QParams) -> tuple[float, float]:
        moments = Moments.of(self.seen.total)
        codes = torch.arange(grid.spec.qmin, grid.spec.qmax + 1, dtype=torch.float64) - grid.zero_point
        levels = grid.scale.double() * codes
        ends = levels[None, [0, -1]]  # (1, 2)
        whole = moments.squared_error(levels[None, None]).squeeze()
        clipping = moments.squared_error_of_fine_grid(ends[:, :1], ends[:, 1:], torch.zeros(1, 1)).squeeze()
        power = moments.below[2, 0, -1]
        return _share((whole - clipping).clamp(min=0.0), power), _share(clipping, power)

    def clipped(self, grid: QParams) -> float:
        return float(clipped_fraction_of(self.seen.total, grid))


def _share(error: Tensor, power: Tensor) -> float:
    return float(error / power)
