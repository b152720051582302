"""What a quantized tensor is: an integer grid, and where it lies over the reals.

r = scale * (q - zero_point), Jacob et al. 2018, arXiv:1712.05877, eq. 1. No arithmetic here: `affine.py` has all of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from quant_sweep.arithmetic.widths import MAX_BITS, MIN_BITS
from quant_sweep.errors import InputError


@dataclass(frozen=True)
class QuantSpec:
    """The integer grid of a tensor.

    Attributes:
        bits: width of a code, 2 to 16.
        signed: codes run from -2**(bits-1), else from 0.
        symmetric: the real range is mirrored about 0, so that zero_point is the middle of the grid (0 if signed).
        narrow_range: leave out the lowest code, so that a signed grid is as wide below 0 as above (-127..127).
        channel_axis: the axis with one scale per index; None for one scale per tensor.

    Raises:
        InputError: bits is no whole number from 2 to 16; channel_axis is negative.
    """

    bits: int
    signed: bool = False
    symmetric: bool = False
    narrow_range: bool = False
    channel_axis: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.bits, bool) or not isinstance(self.bits, int) or not MIN_BITS <= self.bits <= MAX_BITS:
            raise InputError(f"bits={self.bits!r}: allowed are the whole numbers {MIN_BITS} to {MAX_BITS}")
        if self.channel_axis is not None and self.channel_axis < 0:
            raise InputError(f"channel_axis={self.channel_axis}: allowed are 0, 1, ... or None")

    @property
    def qmin(self) -> int:
        """Lowest code."""
        lowest = -(1 << (self.bits - 1)) if self.signed else 0
        return lowest + int(self.narrow_range)

    @property
    def qmax(self) -> int:
        """Highest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1

    @property
    def steps(self) -> int:
        """Distance from the lowest code to the highest, in codes."""
        return self.qmax - self.qmin


@dataclass(frozen=True, eq=False)
class QParams:
    """A grid laid over the reals.

    Attributes:
        scale: real units per code, float32, finite and > 0; shape () or (channels,).
        zero_point: the code of 0.0, int32, inside the grid; shaped like scale.
        spec: the grid.

    Raises:
        InputError: a shape, dtype or value breaks one of these promises.
    """

    scale: Tensor
    zero_point: Tensor
    spec: QuantSpec

    def __post_init__(self) -> None:
        scale, zero_point, spec = self.scale, self.zero_point, self.spec
        if scale.dtype != torch.float32 or zero_point.dtype != torch.int32:
            raise InputError(f"QParams: must be float32 scale, int32 zero_point, got {scale.dtype}, {zero_point.dtype}")
        if scale.shape != zero_point.shape or scale.dim() != (0 if spec.channel_axis is None else 1):
            raise InputError(
                f"QParams: scale {tuple(scale.shape)} and zero_point {tuple(zero_point.shape)} must both be "
                f"{'()' if spec.channel_axis is None else '(channels,)'} for channel_axis={spec.channel_axis}"
            )
        if not bool((scale.isfinite() & (scale > 0)).all()):
            raise InputError(f"QParams: scale must be finite and > 0, got {scale.tolist()}")
        if bool(((zero_point < spec.qmin) | (zero_point > spec.qmax)).any()):
            raise InputError(f"QParams: zero_point must lie in [{spec.qmin}, {spec.qmax}], got {zero_point.tolist()}")

    def to(self, device: torch.device) -> QParams:
        """The same grid, on another device."""
        return QParams(self.scale.to(device), self.zero_point.to(device), self.spec)

    @property
    def lo(self) -> Tensor:
        """Smallest real value on the grid, shaped like scale."""
        return self.scale * (self.spec.qmin - self.zero_point)

    @property
    def hi(self) -> Tensor:
        """Largest real value on the grid, shaped like scale."""
        return self.scale * (self.spec.qmax - self.zero_point)

    def __str__(self) -> str:
        if self.scale.dim() == 0:
            return f"scale={self.scale.item():.6g}, zero_point={self.zero_point.item()}, bits={self.spec.bits}"
        low, high = self.scale.min().item(), self.scale.max().item()
        return f"scale={low:.6g}..{high:.6g} over {len(self.scale)} channels, bits={self.spec.bits}"
