"""What calibration keeps of a tensor: enough for every observer at every bit width, at a fixed cost per batch."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.histogram import DEFAULT_BINS, Histogram


@dataclass(frozen=True, eq=False)
class Summary:
    """The exact summary of one tensor over all calibration batches.

    Attributes:
        total: histogram of all values; its lo and hi are the exact minimum and maximum.
        batches: histogram of each batch, in the order seen, for observers that average over batches.
    """

    total: Histogram
    batches: tuple[Histogram, ...]


@dataclass
class Collector:
    """Accumulates batches of one tensor; `summary` finishes.

    Activations are observed per tensor (one channel). Call `update` once per batch.
    """

    bins: int = DEFAULT_BINS
    _total: Histogram | None = field(default=None, init=False)
    _batches: list[Histogram] = field(default_factory=list, init=False)

    def update(self, values: Tensor) -> None:
        """Add a batch.

        Args:
            values: float32, any shape.

        Raises:
            InputError: values are empty, NaN or infinite.
        """
        batch = Histogram.of(_flat(values.detach())[None, :], self.bins)
        self._total = batch if self._total is None else self._total.merge(batch)
        self._batches.append(batch)

    def summary(self) -> Summary:
        """What was seen so far.

        Raises:
            InputError: nothing was.
        """
        if self._total is None:
            raise InputError("observed tensor: no batch was seen; calibration needs at least one")
        return Summary(self._total, tuple(self._batches))


def summarize_channels(values: Tensor, channel_axis: int | None, bins: int = DEFAULT_BINS) -> Summary:
    """Summary of a tensor that is all there, such as a weight.

    Args:
        values: float32, any shape.
        channel_axis: the axis to keep apart; None for one channel.

    Raises:
        InputError: values are empty, NaN or infinite.
    """
    rows = values.reshape(1, -1) if channel_axis is None else values.transpose(0, channel_axis).flatten(1)
    histogram = Histogram.of(rows.detach(), bins)
    return Summary(histogram, (histogram,))


def _flat(x: Tensor) -> Tensor:
    """All values in whatever order lies in memory: a channels-last tensor is not copied to be counted."""
    if x.dim() == 4 and not x.is_contiguous():
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)
