"""Multiplying integers by real numbers without floats: M = multiplier * 2**-(31 + shift), 32-bit whole numbers only.

The multiplier lies in [2**30, 2**31), so M0 = multiplier / 2**31 in [1/2, 1) has 31 significant bits. A product is a
rounding doubling high multiply, floor((x * multiplier + 2**30) / 2**31), ties up, and a right shift that rounds ties
away from zero, as gemmlowp and TensorFlow Lite have them. Where M >= 1 the shift goes left, before the multiply, and
saturates at 32 bits.

    |multiply(x, M) - x * M| <= 1/2 + 2**-shift, and so at most 1 from the exactly rounded product (shift >= 1)

Source: Jacob et al. 2018, arXiv:1712.05877, section 2.2 and appendix B.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.errors import InputError

INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1
_MOST_SHIFT = 31  # whatever needs more is at most a half, whichever int32 it multiplies
_LEAST_SHIFT = -30
_MOST_AVERAGE_SHIFT = 14


@final
@dataclass(frozen=True, eq=False)
class FixedPoint:
    """Real factors as integers.

    Attributes:
        multiplier: int32, 2**30 to 2**31 - 1; 0 where the factor is too small to make a 1 of any int32.
        shift: places to the right, int32, -30 to 31; shaped like multiplier.
    """

    multiplier: Tensor
    shift: Tensor

    @property
    def real(self) -> Tensor:
        """The factors that the integers stand for, float64."""
        return torch.ldexp(self.multiplier.to(torch.float64), -(31 + self.shift))


def fixed_point_of(real: Tensor) -> FixedPoint:
    """The nearest fixed-point numbers; the relative error is at most 2**-31.

    Args:
        real: float64, any shape, > 0.

    Raises:
        InputError: a factor is not finite, not above 0, or 2**30 and more.
    """
    real = real.to(torch.float64)
    if not bool((real.isfinite() & (real > 0) & (real < 2.0**-_LEAST_SHIFT)).all()):
        raise InputError(f"requantization: factors must lie above 0 and below 2**30, got {real.tolist()}")
    mantissa, exponent = torch.frexp(real)  # mantissa in [1/2, 1)
    multiplier = torch.round(torch.ldexp(mantissa, torch.tensor(31))).to(torch.int64)
    shift = -exponent.to(torch.int64)
    largest = shift == _LEAST_SHIFT  # which cannot become larger: its mantissa stays below 1
    is_one = (multiplier == 2**31) & ~largest  # rounded up to 1
    multiplier = torch.where(is_one, 2**30, multiplier).clamp(max=2**31 - 1)
    shift = shift - is_one.to(torch.int64)
    vanishes = shift > _MOST_SHIFT
    multiplier, shift = multiplier.masked_fill(vanishes, 0), shift.masked_fill(vanishes, 0)
    return FixedPoint(multiplier.to(torch.int32), shift.to(torch.int32))


def multiply(x: Tensor, factor: FixedPoint) -> Tensor:
    """x * factor in integers alone; what exceeds 32 bits on the way saturates, and then the product is at least 2**30.

    Args:
        x: int32 values, of any integer type.
        factor: broadcasts over x.

    Returns:
        int64, with values in the range of int32, shaped like x.
    """
    shift = factor.shift.to(torch.int64)
    left = (x.to(torch.int64) << (-shift).clamp(min=0)).clamp(INT32_MIN, INT32_MAX)
    high = rounding_doubling_high_multiply(left, factor.multiplier.to(torch.int64))
    return rounding_right_shift(high, shift.clamp(min=0))


def rounding_doubling_high_multiply(x: Tensor, multiplier: Tensor) -> Tensor:
    """x * multiplier / 2**31, rounded to the nearest, ties up; int64 holding int32 values.

    The instruction of ARM's NEON (SQRDMULH) that gemmlowp builds on.
    """
    return (x * multiplier + 2**30) >> 31


def rounding_right_shift(x: Tensor, shift: Tensor) -> Tensor:
    """x / 2**shift, rounded to the nearest, ties away from zero; int64, shift 0 to 31."""
    half = torch.where(shift > 0, torch.ones_like(shift) << (shift - 1).clamp(min=0), 0)
    return torch.sign(x) * ((x.abs() + half) >> shift)


def multiply_and_divide(x: Tensor, factor: FixedPoint, divisor: Tensor) -> Tensor:
    """x * factor / divisor, rounded once, ties away from zero; for averages.

    Args:
        x: int32 values, of any integer type.
        factor: one, of shape ().
        divisor: whole numbers from 1 to 2**16, broadcast over x.

    Returns:
        int64, shaped like x.
    """
    shift = int(factor.shift)
    if shift > _MOST_AVERAGE_SHIFT:  # not a 1 of any sum of codes
        return torch.zeros_like(x, dtype=torch.int64)
    whole = divisor.to(torch.int64) << (31 + shift)
    return torch.sign(x) * ((x.to(torch.int64).abs() * factor.multiplier.to(torch.int64) + whole // 2) // whole)
