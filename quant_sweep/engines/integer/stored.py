"""How the integer-only engine keeps codes: uint8, counted from the lowest code of their grid."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.fixed_point import FixedPoint, fixed_point_of, multiply, rounding_right_shift
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import bounds

# Sums of several tensors are formed on a grid so many times finer than the one they are written on.
FINE_BITS = 12


@final
@dataclass(frozen=True, eq=False)
class Stored:
    """A grid as the engine sees it: r = scale * (u - zero), 0 <= u <= steps."""

    grid: QParams
    scale: float
    zero: int
    steps: int

    @classmethod
    def of(cls, grid: QParams | None) -> Stored:
        assert grid is not None
        return cls(grid, float(grid.scale), int(grid.zero_point) - grid.spec.qmin, grid.spec.steps)

    def put(self, x: Tensor) -> Tensor:
        """Float values on the grid, uint8; the only step that reads floats."""
        return (quantize(x, self.grid) - self.grid.spec.qmin).to(torch.uint8)

    def codes(self, u: Tensor) -> Tensor:
        """int32, in the grid's own numbers."""
        return u.to(torch.int32) + self.grid.spec.qmin

    def counts(self, u: Tensor) -> Tensor:
        """How many steps above 0.0 each code lies, int32."""
        return u.to(torch.int32) - self.zero

    def within(self, limits: tuple[float, float]) -> tuple[int, int]:
        """Lowest and highest code of values cut off at `limits`, which are in real units."""
        lowest, highest = bounds(self.grid, limits)
        return lowest - self.grid.spec.qmin, highest - self.grid.spec.qmin

    def write(self, steps: Tensor, clamp: tuple[int, int]) -> Tensor:
        """The codes that lie so many steps above 0.0, clamped to the lowest and highest given."""
        return (steps + self.zero).clamp(*clamp).to(torch.uint8)


def fine_factor(real: Tensor | float, target: Stored) -> FixedPoint:
    """What turns a number that stands for `real` units each into fine steps of `target`."""
    return fixed_point_of(torch.as_tensor(real, dtype=torch.float64) / target.scale * 2.0**FINE_BITS)


def add_up(*terms: tuple[Tensor, FixedPoint]) -> Tensor:
    """Steps of the grid that the factors lead to: each number times its factor, summed, and rounded once more."""
    fine = sum((multiply(x, factor) for x, factor in terms), start=torch.tensor(0))
    return rounding_right_shift(fine, torch.tensor(FINE_BITS))
