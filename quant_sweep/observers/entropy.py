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

from quant_sweep.histogram import Histogram
from quant_sweep.observers.base import Observer
from quant_sweep.spec import QuantSpec
from quant_sweep.summary import Summary

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
    divergence = _divergence(counts, index, begin[coarser], end[coarser], codes)
    return float(reaches[coarser][divergence.argmin()] * histogram.bin_width[channel])


def _divergence(counts: Tensor, index: Tensor, begin: Tensor, end: Tensor, codes: int) -> Tensor:
    """KL(P || Q) of each candidate, nats.

    Args:
        counts: float64 (bins,).
        index: which bin each count belongs to, int64 (bins,).
        begin, end: the candidates' ranges in bins, int64 (candidates,).
        codes: how many groups Q has.
    """
    begin, end = begin[:, None], end[:, None]
    clipped = torch.minimum(torch.maximum(index, begin), end - 1) - index[0]  # (candidates, bins)
    clipped = clipped.clamp(0, len(index) - 1)  # a mirrored range reaches beyond the histogram
    p = torch.zeros(clipped.shape, dtype=torch.float64).scatter_add_(1, clipped, counts.expand(clipped.shape))

    inside = counts * ((index >= begin) & (index < end))
    group = ((index - begin) * codes).div(end - begin, rounding_mode="floor").clamp(0, codes - 1)
    empty = torch.zeros(len(begin), codes, dtype=torch.float64)
    mass = empty.scatter_add(1, group, inside)
    occupied = empty.scatter_add(1, group, (inside > 0).to(torch.float64))
    q = torch.where(inside > 0, (mass / occupied.clamp(min=1.0)).gather(1, group), 0.0)

    p = p / p.sum(dim=1, keepdim=True)
    q = q / q.sum(dim=1, keepdim=True).clamp(min=1.0)
    # An outermost bin that is empty inside but receives outliers has no Q: count it as one value, not as impossible.
    q = q.clamp(min=1.0 / float(counts.sum()))
    divergence = torch.special.xlogy(p, p / q).sum(dim=1)
    return torch.where(inside.any(dim=1), divergence, torch.inf)  # a range that holds no value says nothing
