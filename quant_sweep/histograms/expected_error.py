"""The squared error that a grid would cause, expected from a histogram alone.

Inside a bin the density is taken as constant. With the running moments of that density,

    M_p(x) = integral of t**p * density(t) dt from -inf to x,      p = 0, 1, 2,

the values between a and b that are replaced by the level v cost

    (M_2(b) - M_2(a)) - 2 v (M_1(b) - M_1(a)) + v**2 (M_0(b) - M_0(a)),

so a grid costs one look-up per level, however many values and bins there are. The idea of weighing rounding against
saturation on a histogram is that of torch.ao's HistogramObserver (after caffe2's norm minimization).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import grid_of_range, sqnr_db
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.histograms.histogram import Histogram

# Levels that one pass keeps in memory: bounds the search over thousands of channels to a few hundred MB.
_LEVELS_AT_ONCE = 2**21
# Steps of fewer bins than this count as fine: the error inside them is that of evenly spread values.
_BINS_PER_STEP = 4


@dataclass(frozen=True, eq=False)
class Moments:
    """Running moments of a histogram's density, float64.

    Attributes:
        histogram: whose moments these are.
        below: M_0, M_1, M_2 at every bin edge, (3, channels, bins + 1).
    """

    histogram: Histogram
    below: Tensor

    @classmethod
    def of(cls, histogram: Histogram) -> Moments:
        edges, counts = histogram.edges, histogram.counts.to(torch.float64)
        width = histogram.bin_width[:, None]
        per_bin = torch.stack([counts * torch.diff(edges**p, dim=1) / (p * width) for p in (1, 2, 3)])
        return cls(histogram, torch.nn.functional.pad(per_bin.cumsum(dim=2), (1, 0)))

    def at(self, x: Tensor) -> Tensor:
        """Moments below x: float64 (channels, n) real values -> (3, channels, n); infinities are fine."""
        h = self.histogram
        width, origin = h.bin_width[:, None], h.first.to(torch.float64)[:, None] * h.bin_width[:, None]
        x = torch.minimum(torch.maximum(x, origin), origin + h.bins * width)
        index = ((x - origin) / width).to(torch.int64).clamp(0, h.bins - 1)
        edge = origin + index * width
        density = h.counts.gather(1, index).to(torch.float64) / width
        inside = torch.stack([density * (x**p - edge**p) / p for p in (1, 2, 3)])
        return self.below.gather(2, index.expand(3, *index.shape)) + inside

    def squared_error(self, levels: Tensor) -> Tensor:
        """Sum of squared errors when every value goes to its nearest level.

        Args:
            levels: ascending real values, float64 (channels, candidates, levels).

        Returns:
            float64 (channels, candidates), squared real units summed over values.
        """
        channels, candidates, count = levels.shape
        infinity = levels.new_full((channels, candidates, 1), torch.inf)
        between = torch.cat([-infinity, (levels[..., 1:] + levels[..., :-1]) / 2, infinity], dim=2)
        moments = self.at(between.flatten(1)).reshape(3, channels, candidates, count + 1)
        m0, m1, m2 = torch.diff(moments, dim=3)
        # Differences of large sums leave rounding noise, which may be below zero.
        error: Tensor = m2 - 2 * levels * m1 + levels**2 * m0
        return error.sum(dim=2).clamp(min=0.0)

    def squared_error_of_fine_grid(self, lo: Tensor, hi: Tensor, step: Tensor) -> Tensor:
        """The same where steps are narrower than bins: step**2 / 12 a value inside [lo, hi], exact outside.

        Args:
            lo, hi, step: real units, float64 (channels, candidates).
        """
        low, high = self.at(lo), self.at(hi)  # (3, channels, candidates)
        above = self.below[:, :, -1:] - high
        saturated = low[2] - 2 * lo * low[1] + lo**2 * low[0] + above[2] - 2 * hi * above[1] + hi**2 * above[0]
        return saturated.clamp(min=0.0) + (high[0] - low[0]) * step**2 / 12


def expected_squared_error(histogram: Histogram, lo: Tensor, hi: Tensor, spec: QuantSpec) -> Tensor:
    """Sum of squared quantization errors for candidate ranges, zero-point rounding and saturation included.

    Args:
        histogram: the values.
        lo, hi: candidate ranges, real units, float64 (channels, candidates).
        spec: the grid that is laid over each.

    Returns:
        float64 (channels, candidates), squared real units summed over all values.
    """
    if spec.steps * _BINS_PER_STEP >= histogram.bins:
        return high_resolution_error(histogram, lo, hi, spec)
    moments = Moments.of(histogram)
    scale, zero_point = grid_of_range(lo, hi, spec)
    codes = torch.arange(spec.qmin, spec.qmax + 1, dtype=torch.float64)
    at_once = max(1, _LEVELS_AT_ONCE // (len(codes) * len(lo)))
    errors = [
        moments.squared_error(s[..., None] * (codes - z[..., None]))
        for s, z in zip(scale.split(at_once, dim=1), zero_point.split(at_once, dim=1), strict=True)
    ]
    return torch.cat(errors, dim=1)


def high_resolution_error(histogram: Histogram, lo: Tensor, hi: Tensor, spec: QuantSpec) -> Tensor:
    """`expected_squared_error` as if every step were so fine that values are spread evenly inside it.

    Two look-ups a grid instead of one per level: good enough to rank ranges of 8 bits and more.

    Source: Bennett 1948, "Spectra of quantized signals": step**2 / 12 for each value that is not clipped.
    """
    scale, zero_point = grid_of_range(lo, hi, spec)
    lowest, highest = scale * (spec.qmin - zero_point), scale * (spec.qmax - zero_point)
    return Moments.of(histogram).squared_error_of_fine_grid(lowest, highest, scale)


def sqnr_db_of(histogram: Histogram, qparams: QParams) -> Tensor:
    """`sqnr_db` that a per-tensor grid gives the values of a histogram, dB, float64 ()."""
    moments, spec = Moments.of(histogram), qparams.spec
    codes = torch.arange(spec.qmin, spec.qmax + 1, dtype=torch.float64)
    levels = qparams.scale.to(torch.float64) * (codes - qparams.zero_point)
    noise = moments.squared_error(levels[None, None, :]).squeeze()
    signal = moments.below[2, 0, -1]
    return sqnr_db(signal, noise)


def clipped_fraction_of(histogram: Histogram, qparams: QParams) -> Tensor:
    """Share of a histogram's values that lie more than half a step outside a per-tensor grid, float64 ()."""
    half = qparams.scale.to(torch.float64) / 2
    ends = torch.stack([qparams.lo.to(torch.float64) - half, qparams.hi.to(torch.float64) + half])
    below_lo, below_hi = Moments.of(histogram).at(ends[None, :])[0, 0]
    total = histogram.total.squeeze().to(torch.float64)
    fraction: Tensor = (below_lo + total - below_hi) / total
    return fraction
