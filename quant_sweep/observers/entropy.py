"""The range that loses the least information: TensorRT's calibration.

For a threshold T, P is the histogram inside +-T with everything beyond moved onto the outermost bins. Q is what an
integer can still tell apart of the histogram inside +-T: its bins merged into as many groups as the grid has codes,
each group spread evenly over its non-empty bins. The T with the least Kullback-Leibler divergence of Q from P wins.

Source: Migacz, "8-bit Inference with TensorRT", GTC 2017, pages 28 to 36. TensorRT works on |x|; here the range is
[max(min, -T), min(max, T)], which is the same after a ReLU and mirrored for a symmetric grid.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers.base import Observer

_CANDIDATES = 128


@final
@dataclass(frozen=True)
class Entropy(Observer):
    """Least KL divergence between the clipped distribution and what the grid keeps of it."""

    def range(self, summary: Summary, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        thresholds = [_threshold(summary.total, channel, spec) for channel in range(len(summary.total.lo))]
        threshold = torch.tensor(thresholds, dtype=torch.float32)
        return torch.maximum(summary.total.lo, -threshold), torch.minimum(summary.total.hi, threshold)


def _threshold(histogram: Histogram, channel: int, spec: QuantSpec) -> float:
    """T of one channel, real units; everything that was seen where the grid is at least as fine as the bins."""
    counts = histogram.counts[channel].to(torch.float64)
    index = int(histogram.first[channel]) + torch.arange(histogram.bins)  # bin i is [i, i + 1) bin widths
    # The zeros of a ReLU cost nothing on any grid, but their bin would outweigh all others: even it out.
    zero = int((index == 0).nonzero())
    counts[zero] = torch.minimum(counts[zero], counts[(zero + 1) % len(counts)])
    occupied = index[counts > 0]
    if len(occupied) == 0:  # nothing but zeros, or values too small to be told from 0
        return float(max(-histogram.lo[channel], histogram.hi[channel]))
    lowest, highest = min(int(occupied[0]), 0), max(int(occupied[-1]) + 1, 0)
    reach = max(-lowest, highest)
    if spec.symmetric:
        lowest, highest = -reach, reach
    reaches = torch.linspace(reach / _CANDIDATES, reach, _CANDIDATES).ceil().to(torch.int64).unique()
    begin, end = reaches.neg().clamp(min=lowest), reaches.clamp(max=highest)  # (candidates,), in bins
    codes = spec.steps + 1
    coarser = end - begin > codes  # else every bin has a code of its own and the divergence says nothing
    if not bool(coarser.any()):
        return float(reach * histogram.bin_width[channel])
    divergence = _Cumulative.of(counts).divergence(begin[coarser] - index[0], end[coarser] - index[0], codes)
    return float(reaches[coarser][divergence.argmin()] * histogram.bin_width[channel])


@dataclass(frozen=True, eq=False)
class _Cumulative:
    """Running sums over the bins of a histogram, so that a range of bins costs two look-ups: float64 (bins + 1,) each.

    Attributes:
        counts: of values; the last is their total.
        c_log_c: of c log c for each bin's count c.
        occupied: of bins that hold a value.
    """

    counts: Tensor
    c_log_c: Tensor
    occupied: Tensor

    @classmethod
    def of(cls, counts: Tensor) -> _Cumulative:
        per_bin = torch.stack([counts, torch.xlogy(counts, counts), (counts > 0).to(torch.float64)])
        return cls(*torch.nn.functional.pad(per_bin.cumsum(dim=1), (1, 0)))

    def divergence(self, begin: Tensor, end: Tensor, codes: int) -> Tensor:
        """KL(P || Q) of each candidate, nats, float64 (candidates,).

        With a_i what P counts in bin i, T its total, and Q's value of a bin constant within a group g,

            KL = sum_i a_i log a_i / T - log T - sum_g (sum of a_i in g) log q_g / T.

        Args:
            begin, end: the candidates' ranges in bins of this histogram, int64 (candidates,); they may reach beyond it.
            codes: how many groups Q has.
        """
        total = self.counts[-1]
        # Bin i of a range belongs to group floor((i - begin) * codes / (end - begin)): here is where each one begins.
        widths = (end - begin)[:, None] * torch.arange(codes + 1)
        edges = begin[:, None] - widths.neg().div(codes, rounding_mode="floor")  # (candidates, codes + 1)
        edges = edges.clamp(0, len(self.counts) - 1)
        mass = self.counts[edges].diff(dim=1)  # (candidates, codes)
        inside = mass.sum(dim=1)
        # An outermost bin that is empty inside but receives outliers has no Q: it counts as one value.
        level = mass / self.occupied[edges].diff(dim=1).clamp(min=1.0) / inside.clamp(min=1.0)[:, None]
        log_q = level.clamp(min=1 / total).log()
        p_log_p = self.c_log_c[edges[:, -1]] - self.c_log_c[edges[:, 0]]
        p_log_q = (mass * log_q).sum(dim=1)
        outside = (self.counts[edges[:, 0]], total - self.counts[edges[:, -1]])
        for bins, group, beyond in ((edges[:, 0], 0, outside[0]), (edges[:, -1] - 1, -1, outside[1])):
            outermost = self.counts[bins + 1] - self.counts[bins]
            p_log_p += torch.xlogy(outermost + beyond, outermost + beyond) - torch.xlogy(outermost, outermost)
            p_log_q += beyond * torch.where(outermost > 0, log_q[:, group], -total.log())
        divergence = (p_log_p - p_log_q) / total - total.log()
        return torch.where(inside > 0, divergence, torch.inf)  # a range that holds no value says nothing
