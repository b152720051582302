"""What calibration keeps of a tensor: enough for every observer at every bit width, in memory that does not grow.

Two numbers of each batch are kept for ever, its histogram only until 64 others have come.
"""

from __future__ import annotations

import functools
from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.histograms.histogram import DEFAULT_BINS, Histogram

# Batches whose histograms are kept. An average with momentum 0.1 gives what came before them 0.1 % of the weight.
_RECENT = 64


@dataclass(frozen=True, eq=False)
class Summary:
    """The exact summary of one tensor over all calibration batches.

    Attributes:
        total: histogram of all values; its lo and hi are the exact minimum and maximum.
        recent: histogram of each of the last batches, at most 64, in the order seen.
        batch_lo, batch_hi: smallest and largest value of every batch, float32 (batches, channels).
    """

    total: Histogram
    recent: tuple[Histogram, ...]
    batch_lo: Tensor
    batch_hi: Tensor

    @classmethod
    def of_one_batch(cls, histogram: Histogram) -> Summary:
        """The summary of a tensor that came in one piece."""
        return cls(histogram, (histogram,), histogram.lo[None], histogram.hi[None])


class Collector:
    """Accumulates batches of one tensor; `summary` finishes.

    Activations are observed per tensor (one channel). Between two batches it holds on to few and large pieces of
    memory, and to plain numbers: small tensors that stay between the large ones which come and go in every batch leave
    holes that these no longer fit into, and the heap grew by 100 MB a batch.
    """

    def __init__(self, bins: int = DEFAULT_BINS) -> None:
        self.bins = bins
        self._total: Histogram | None = None
        self._parts: list[Histogram] = []  # of the batch that is coming in
        self._batches: list[tuple[float, float, int, int]] = []  # lo, hi, exponent, first
        self._counts: deque[Tensor] = deque(maxlen=2)  # of as many batches each as are kept, int64 (_RECENT, 1, bins)

    def update(self, values: Tensor) -> None:
        """Add a whole batch; see `add`."""
        self.add(values)
        self.end_batch()

    def add(self, values: Tensor) -> None:
        """Add a part of a batch. The parts may come in any order, and from several threads at once.

        Args:
            values: float32, any shape.

        Raises:
            InputError: values are empty, NaN or infinite.
        """
        self._parts.append(Histogram.of(_flat(values.detach())[None, :], self.bins))

    def end_batch(self) -> None:
        """The parts added since the last call are a batch: at least one."""
        batch = functools.reduce(Histogram.merge, self._parts)
        self._parts = []
        self._total = batch if self._total is None else self._total.merge(batch)
        place = len(self._batches) % _RECENT
        if place == 0:
            self._counts.append(torch.empty(_RECENT, 1, self.bins, dtype=torch.int64))
        self._counts[-1][place] = batch.counts
        self._batches.append((batch.lo.item(), batch.hi.item(), int(batch.exponent), int(batch.first)))

    def summary(self) -> Summary:
        """What was seen so far.

        Raises:
            InputError: nothing was.
        """
        if self._total is None:
            raise InputError("observed tensor: no batch was seen; calibration needs at least one")
        lo, hi, exponent, first = (torch.tensor(numbers) for numbers in zip(*self._batches, strict=True))
        used = (len(self._batches) - 1) % _RECENT + 1
        counts = torch.cat([*list(self._counts)[:-1], self._counts[-1][:used]])[-_RECENT:]
        fields = (numbers[-_RECENT:].split(1) for numbers in (lo, hi, exponent, first))
        recent = tuple(Histogram(*batch) for batch in zip(*fields, counts, strict=True))
        return Summary(self._total, recent, lo[:, None], hi[:, None])


def summarize_channels(values: Tensor, channel_axis: int | None, bins: int = DEFAULT_BINS) -> Summary:
    """Summary of a tensor that is all there, such as a weight.

    Args:
        values: float32, any shape.
        channel_axis: the axis to keep apart; None for one channel.

    Raises:
        InputError: values are empty, NaN or infinite.
    """
    rows = values.reshape(1, -1) if channel_axis is None else values.transpose(0, channel_axis).flatten(1)
    return Summary.of_one_batch(Histogram.of(rows.detach(), bins))


def _flat(x: Tensor) -> Tensor:
    """All values in whatever order lies in memory: a channels-last tensor is not copied to be counted."""
    if x.dim() == 4 and not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)
