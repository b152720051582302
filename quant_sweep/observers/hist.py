"""torch.ao's HistogramObserver: trim the tails step by step while the expected L2 error falls.

Each step drops 1e-5 of all values from one tail, the one where that frees more bins (caffe2's
NonlinearQuantizationParamsSearch, as torch.ao took it over). The error is that of cells laid evenly over the range,
each value replaced by the middle of its cell; unlike `mse` it does not know where the grid will round its zero-point.

Three things differ from torch.ao. The number of cells is 2**bits; torch.ao always searches with 256, which is too
fine a grid below 8 bits (`dst_bins=256` asks for that). The search starts with the whole range and ends after 64 steps
without a gain; torch.ao takes the first trim without asking and ends at the first step without a gain. And the bins
are powers of two wide instead of one 2048th of the range. At 8 bits the first difference is none and the others move
the scale by well under 1 % unless the error is flat around its minimum.

The original study describes this search. Its code does two things more, which are options here: it tells the search
that the grid has as many cells as a code has bits (`dst_bins=bits`), and after every batch it takes the found range and
what was seen together (`merge_with_minmax`). A found range lies inside what was seen, so that the code's "hist" is the
full range whatever the search finds, and the search need not be made: the second option excludes the first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.errors import InputError
from quant_sweep.histograms.expected_error import Moments
from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers.base import Observer

_STEPS = 100_000  # each trims this part of all values
_PATIENCE = 64  # steps without a gain after which the search ends


@final
@dataclass(frozen=True)
class Hist(Observer):
    """Greedy search for the least expected L2 error.

    Attributes:
        dst_bins: cells of the grid that the search assumes; None takes the codes of the real one, "bits" as many as
            the grid has bits, as the original study's code.
        merge_with_minmax: widen the found range to all that was seen, as the original study's code.

    Raises:
        InputError: dst_bins is below 2 or another word; merge_with_minmax is neither true nor false, or makes dst_bins
            meaningless.
    """

    dst_bins: int | str | None = None
    merge_with_minmax: bool = False

    def __post_init__(self) -> None:
        bins = self.dst_bins
        if not (bins is None or bins == "bits" or (isinstance(bins, int) and not isinstance(bins, bool) and bins >= 2)):
            raise InputError(f"dst_bins={bins}: allowed are whole numbers from 2, null for 2**bits, or bits")
        if not isinstance(self.merge_with_minmax, bool):  # the text "off" would count as true
            raise InputError(f"merge_with_minmax={self.merge_with_minmax!r}: allowed are true and false")
        if self.merge_with_minmax and bins is not None:
            raise InputError(f"dst_bins={bins}: merge_with_minmax=true takes all that was seen, whatever is searched")

    def range(self, summary: Summary, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        histogram = summary.total
        if self.merge_with_minmax:
            return histogram.lo, histogram.hi  # whatever the search finds lies inside
        ranges = [_search(_channel(histogram, c), self._cells(spec)) for c in range(len(histogram.lo))]
        lo, hi = torch.tensor(ranges, dtype=torch.float64).to(torch.float32).unbind(dim=1)
        # Both ends both ways: a search over coarse cells may stop beside the one bin of a constant tensor.
        return lo.clamp(histogram.lo, histogram.hi), hi.clamp(histogram.lo, histogram.hi)

    def _cells(self, spec: QuantSpec) -> int:
        if isinstance(self.dst_bins, int):
            return self.dst_bins
        return spec.bits if self.dst_bins == "bits" else spec.steps + 1


def _channel(histogram: Histogram, channel: int) -> Histogram:
    one = slice(channel, channel + 1)
    h = histogram
    return Histogram(h.lo[one], h.hi[one], h.exponent[one], h.first[one], h.counts[one])


def _search(histogram: Histogram, cells: int) -> tuple[float, float]:
    """Ends of the best range of one channel, real units."""
    moments, edges = Moments.of(histogram), histogram.edges[0]
    path = _trimming_path(histogram.counts[0])
    best, least = (0, histogram.bins - 1), float("inf")
    while steps := list(islice(path, _PATIENCE)):
        start, end = torch.tensor(steps).unbind(dim=1)
        errors = _cell_error(moments, edges[start], edges[end + 1], cells)
        winner = int(errors.argmin())
        if errors[winner].item() >= least:
            break
        best, least = steps[winner], errors[winner].item()
    return edges[best[0]].item(), edges[best[1] + 1].item()


def _cell_error(moments: Moments, lo: Tensor, hi: Tensor, cells: int) -> Tensor:
    """Squared error of values replaced by the middle of their cell, (candidates,) for ranges (candidates,)."""
    width = (hi - lo) / cells
    if cells >= moments.histogram.bins:
        half = width / 2
        return moments.squared_error_of_fine_grid((lo + half)[None], (hi - half)[None], width[None])[0]
    middles = lo[:, None] + (torch.arange(cells) + 0.5) * width[:, None]
    return moments.squared_error(middles[None])[0]


def _trimming_path(counts: Tensor) -> Iterator[tuple[int, int]]:
    """First and last bin of each range that the search visits, widest first.

    The path follows from the histogram alone, so its errors can be computed many at a time.
    """
    share = counts.cumsum(dim=0).to(torch.float64) / counts.sum()
    lows = _bins_where(lambda trimmed: torch.searchsorted(share, trimmed))
    highs = _bins_where(lambda trimmed: torch.searchsorted(share, 1.0 - trimmed, right=True) - 1)
    start, end = 0, len(counts) - 1
    yield start, end
    next_low, next_high = next(lows), next(highs)
    for _ in range(_STEPS):
        low, high = min(max(next_low, start), end), max(min(next_high, end), start)
        if low - start > end - high:
            start, next_low = low, next(lows)
        else:
            moved, end, next_high = end - high, high, next(highs)
            if moved == 0:
                continue
        yield start, end


def _bins_where(bins_of: Callable[[Tensor], Tensor]) -> Iterator[int]:
    """The bin where each step's trimming ends; looked up a block at a time, for most searches end early."""
    for steps in torch.arange(1, _STEPS + 2, dtype=torch.float64).split(4 * _PATIENCE):
        yield from bins_of(steps / _STEPS).tolist()
