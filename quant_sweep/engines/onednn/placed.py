"""Where the codes of a grid lie in uint8, and how tensors of them lie in memory.

The lowest code of a grid, signed or not, is stored as 0 or 1. The kernels round r / scale + zero_point in float32, half
to even: a small zero-point keeps the digits after the point (at 249 and -0.499998 it lost a channel of ties), an even
one the direction of exact ties. Images and feature maps are stored channels last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import bounds
from quant_sweep.errors import NotFiniteError

TOP = 255  # of uint8


@final
@dataclass(frozen=True)
class Placed:
    """Where a grid lies in uint8: r = scale * (u - zero), lowest <= u <= highest, u = code + offset."""

    scale: float
    zero: int
    lowest: int
    highest: int
    offset: int

    @classmethod
    def of(cls, grid: QParams | None) -> Placed:
        assert grid is not None
        spec, zero_point = grid.spec, int(grid.zero_point)
        odd = (zero_point - spec.qmin) % 2
        lowest = odd if spec.steps < TOP else 0
        offset = lowest - spec.qmin
        return cls(float(grid.scale), zero_point + offset, lowest, lowest + spec.steps, offset)

    @property
    def codes(self) -> slice:
        """The stored codes that occur, of all of uint8."""
        return slice(self.lowest, self.highest + 1)

    def bounds(self, grid: QParams, limits: tuple[float, float]) -> tuple[int, int]:
        """Lowest and highest stored code of values cut off at `limits`."""
        lowest, highest = bounds(grid, limits)
        return lowest + self.offset, highest + self.offset

    def put(self, x: Tensor) -> Tensor:
        """Stored codes of float values, rounded as `affine.quantize` rounds; uint8, channels last.

        Raises:
            NotFiniteError: x holds NaN, which no code can stand for.
        """
        u = channels_last(x).div(self.scale).round_().add_(self.zero).clamp_(self.lowest, self.highest)
        if bool(u.sum().isnan()):
            raise NotFiniteError("engine=int8: a tensor that is to be quantized holds NaN; check model.checkpoint")
        return u.to(torch.uint8)

    def take(self, u: Tensor) -> Tensor:
        """Real values of stored codes, float32; the same bits as `affine.dequantize`."""
        return u.to(torch.float32).sub_(self.zero).mul_(self.scale)


def channels_last(x: Tensor) -> Tensor:
    """Contiguous, the channels of an image side by side."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def storage_order(u: Tensor) -> Tensor:
    """Contiguous; (n, c, h, w) as (n, h, w, c)."""
    return channels_last(u).permute(0, 2, 3, 1) if u.dim() == 4 else u.contiguous()


def from_storage_order(u: Tensor) -> Tensor:
    """The inverse of `storage_order`."""
    return u.permute(0, 3, 1, 2) if u.dim() == 4 else u
