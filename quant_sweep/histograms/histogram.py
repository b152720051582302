"""Histograms that merge exactly, in any order.

Bins are 2**exponent wide and aligned to 0: bin i covers [i, i + 1) * 2**exponent. The exponent is the smallest one for
which the data and 0 fit into the given number of bins. Scaling by a power of two is exact in floating point, and
floor(x / 2**(e + 1)) == floor(floor(x / 2**e) / 2), so adding up neighbours gives the very counts that binning the
values anew would give: the result does not depend on the order or the split of the batches. Counts are int64, since
64 CIFAR images already fill one tensor of a ResNet-50 beyond the 2**24 that float32 can count.

All fields have a leading axis `channels`; a tensor that is observed as a whole is one channel.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_sweep.errors import InputError

DEFAULT_BINS = 4096
# Values that are counted together on a CPU: what is made of them on the way stays in its cache.
_VALUES_IN_CACHE = 2**17
# One channel is counted into several sets of bins by turns. The many zeros behind a ReLU would else wait for each
# other, each adding to the count that the one before has not written yet.
_SETS_OF_BINS = 4
# 2.0**-exponent has to be finite in float32.
_MIN_EXPONENT = -126


@dataclass(frozen=True, eq=False)
class Histogram:
    """How often each value occurs.

    Attributes:
        lo, hi: smallest and largest value, real units, float32 (channels,).
        exponent: log2 of the bin width, int64 (channels,).
        first: which multiple of the bin width the first bin begins at, int64 (channels,).
        counts: int64 (channels, bins).
    """

    lo: Tensor
    hi: Tensor
    exponent: Tensor
    first: Tensor
    counts: Tensor

    @property
    def bins(self) -> int:
        return self.counts.shape[1]

    @property
    def total(self) -> Tensor:
        """Number of values, int64 (channels,)."""
        return self.counts.sum(dim=1)

    @property
    def bin_width(self) -> Tensor:
        """Real units, float64 (channels,)."""
        return torch.ldexp(torch.ones_like(self.exponent, dtype=torch.float64), self.exponent)

    @property
    def edges(self) -> Tensor:
        """Where bins begin and end, real units, float64 (channels, bins + 1)."""
        index = self.first[:, None] + torch.arange(self.bins + 1)
        return index.to(torch.float64) * self.bin_width[:, None]

    @classmethod
    def of(cls, values: Tensor, bins: int = DEFAULT_BINS) -> Histogram:
        """Count values.

        Args:
            values: float32 (channels, n), n >= 1.
            bins: how many bins a channel has.

        Raises:
            InputError: there is no value, or one is NaN or infinite.
        """
        if values.numel() == 0:
            raise InputError("observed tensor: it is empty; at least one value is needed")
        # One row is reduced by all threads only if the axis is not named.
        extremes = torch.aminmax(values) if len(values) == 1 else torch.aminmax(values, dim=1)
        lo, hi = (end.reshape(-1) for end in extremes)
        if not bool((lo.isfinite() & hi.isfinite()).all()):  # aminmax passes NaN on
            raise InputError("observed tensor: it holds NaN or infinity; calibration needs finite values")
        lo, hi = lo.cpu(), hi.cpu()
        exponent = _smallest_exponent(lo, hi, bins)
        first = _bin_index(lo.clamp(max=0.0), exponent)
        return cls(lo, hi, exponent, first, _count(values, exponent, first, bins, signed=bool((lo < 0).any())))

    def merge(self, other: Histogram) -> Histogram:
        """The histogram of both sets of values: equal, bin for bin, to counting them together.

        Raises:
            ValueError: the numbers of channels or bins differ.
        """
        if self.counts.shape != other.counts.shape:
            raise ValueError(f"histograms of {tuple(self.counts.shape)} and {tuple(other.counts.shape)} do not merge")
        lo, hi = torch.minimum(self.lo, other.lo), torch.maximum(self.hi, other.hi)
        exponent = _smallest_exponent(lo, hi, self.bins)
        first = _bin_index(lo.clamp(max=0.0), exponent)
        counts = self._counts_on(exponent, first) + other._counts_on(exponent, first)
        return Histogram(lo, hi, exponent, first, counts)

    def _counts_on(self, exponent: Tensor, first: Tensor) -> Tensor:
        """These counts on bins that are as wide or wider by powers of two, int64 (channels, bins)."""
        fine = self.first[:, None] + torch.arange(self.bins)
        coarse = (fine >> (exponent - self.exponent).clamp(max=62)[:, None]) - first[:, None]
        # Empty bins beyond the data may fall outside the new bins; they carry nothing wherever they land.
        return torch.zeros_like(self.counts).scatter_add_(1, coarse.clamp(0, self.bins - 1), self.counts)

    def quantile(self, fraction: float) -> Tensor:
        """The value that a share `fraction` of all values does not exceed, float32 (channels,).

        Like `torch.kthvalue` with k = ceil(fraction * n), at least 1; within one bin of it: inside the bin that holds
        the k-th value the values are taken as evenly spread.
        """
        k = torch.ceil(self.total.to(torch.float64) * fraction).clamp(min=1.0)[:, None]  # (channels, 1)
        below = self.counts.cumsum(dim=1).to(torch.float64)
        index = torch.searchsorted(below, k).clamp(max=self.bins - 1)
        inside = self.counts.gather(1, index).to(torch.float64)
        position = 1.0 - (below.gather(1, index) - k) / inside
        value = (self.first[:, None] + index + position).squeeze(1) * self.bin_width
        return value.to(torch.float32).clamp(self.lo, self.hi)


def _count(values: Tensor, exponent: Tensor, first: Tensor, bins: int, signed: bool) -> Tensor:
    """How many values lie in each bin, int64 (channels, bins); `signed` if a value is below 0."""
    channels, length = values.shape
    at_once = length if values.is_cuda else min(length, max(1, _VALUES_IN_CACHE // channels))
    by_turns = channels == 1 and not values.is_cuda
    sets = _SETS_OF_BINS if by_turns else 1
    # Index of the bin of 0.0, int32 (1, at_once) or (channels, 1).
    begin = _turns(at_once, bins) if by_turns else (torch.arange(channels, dtype=torch.int32) * bins)[:, None]
    begin = (begin - first.to(torch.int32)[:, None]).to(values.device)
    inverse_width = _inverse_width(exponent)[:, None].to(values.device)
    may_underflow = signed and bool((exponent > 0).any())
    counts = torch.zeros(sets * channels * bins, dtype=torch.int64, device=values.device)
    for part in values.split(at_once, dim=1):
        scaled = part * inverse_width
        index = (scaled.floor_() if signed else scaled).to(torch.int32)
        if may_underflow:  # a tiny negative value becomes -0.0, which floor leaves
            index -= ((part < 0) & (index == 0)).to(torch.int32)
        index += begin[:, : part.shape[1]] if by_turns else begin
        counts += torch.bincount(index.flatten(), minlength=len(counts))
    return counts.reshape(sets, channels, bins).sum(dim=0).cpu()


@functools.lru_cache(maxsize=8)
def _turns(length: int, bins: int) -> Tensor:
    """Where each value's set of bins begins, int32 (1, length): they take turns."""
    return (torch.arange(length, dtype=torch.int32) % _SETS_OF_BINS * bins)[None]


def _smallest_exponent(lo: Tensor, hi: Tensor, bins: int) -> Tensor:
    """Exponent of the narrowest bins that hold [min(lo, 0), max(hi, 0)], int64 (channels,)."""
    low, high = lo.to(torch.float64).clamp(max=0.0), hi.to(torch.float64).clamp(min=0.0)
    width = high - low
    # width / bins < 2**exponent, so the data touch at most bins + 1 bins, and at most bins one exponent higher.
    exponent = torch.frexp(width / bins).exponent.to(torch.int64).clamp(min=_MIN_EXPONENT)
    exponent = torch.where(width == 0, _MIN_EXPONENT, exponent)
    touched = _bin_index(high, exponent) - _bin_index(low, exponent) + 1
    return torch.where(touched > bins, exponent + 1, exponent)


def _bin_index(x: Tensor, exponent: Tensor) -> Tensor:
    return torch.floor(torch.ldexp(x.to(torch.float64), -exponent)).to(torch.int64)


def _inverse_width(exponent: Tensor) -> Tensor:
    return torch.ldexp(torch.ones_like(exponent, dtype=torch.float32), -exponent)
