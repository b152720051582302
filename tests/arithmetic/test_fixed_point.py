"""Fixed-point products against exact whole numbers: the bound that `fixed_point` states, and gemmlowp's own bits."""

import math
from fractions import Fraction

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_sweep.arithmetic.fixed_point import (
    INT32_MAX,
    INT32_MIN,
    FixedPoint,
    fixed_point_of,
    multiply,
    multiply_and_divide,
    rounding_doubling_high_multiply,
    rounding_right_shift,
)
from quant_sweep.errors import InputError

EDGES = [0, 1, -1, 2, -2, 3, 2**30, -(2**30), 2**30 - 1, 2**30 + 1, INT32_MAX, INT32_MIN, INT32_MAX - 1, INT32_MIN + 1]
int32 = st.sampled_from(EDGES) | st.integers(INT32_MIN, INT32_MAX) | st.integers(-1000, 1000)
near_a_power_of_two = st.builds(
    lambda exponent, ulps: 2.0**exponent * (1 + ulps * 2.0**-52), st.integers(-32, 29), st.integers(-4, 4)
)
factors = near_a_power_of_two | st.floats(2.0**-40, 2.0**29)


def nearest(x: Fraction) -> int:
    return round(x)  # half to even; the bound is about any rounding


def gemmlowp_high_multiply(a: int, b: int) -> int:
    """SaturatingRoundingDoublingHighMul, transcribed: C's division cuts off towards zero."""
    if a == b == INT32_MIN:
        return INT32_MAX
    nudged = a * b + (2**30 if a * b >= 0 else 1 - 2**30)
    return abs(nudged) // 2**31 * (1 if nudged >= 0 else -1)


def gemmlowp_right_shift(x: int, exponent: int) -> int:
    """RoundingDivideByPOT, transcribed."""
    mask = (1 << exponent) - 1
    return (x >> exponent) + ((x & mask) > (mask >> 1) + (x < 0))


def off(x: torch.Tensor, factor: FixedPoint, real: Fraction) -> list[Fraction]:
    """How far each product is from the exact one, where nothing saturates."""
    products = zip(multiply(x, factor).tolist(), x.tolist(), strict=True)
    return [abs(found - exact) for found, exact in ((f, v * real) for f, v in products) if abs(exact) < 2**30]


# 400 factors with 100 values each, both signs, and the edges: 100,000 cases.
@settings(max_examples=400)
@given(real=factors, seed=st.integers(0, 2**32 - 1), values=st.lists(int32, max_size=20))
def test_the_stated_bound(real: float, seed: int, values: list[int]) -> None:
    factor = fixed_point_of(torch.tensor(real, dtype=torch.float64))
    random = torch.randint(INT32_MIN, INT32_MAX + 1, (100,), generator=torch.Generator().manual_seed(seed))
    x = torch.cat([random >> int(seed % 31), torch.tensor(EDGES + values)])
    exact = Fraction(real)
    bound = Fraction(1, 2) + Fraction(2) ** -int(factor.shift)
    for x_part in (x, -x.clamp(min=INT32_MIN + 1)):
        assert all(distance <= bound for distance in off(x_part, factor, exact))
    if factor.shift >= 1:
        found = multiply(x, factor).tolist()
        assert all(abs(f - nearest(v * exact)) <= 1 for f, v in zip(found, x.tolist(), strict=True))


@given(a=int32, b=st.integers(0, INT32_MAX) | st.sampled_from([2**30, INT32_MAX]), n=st.integers(0, 31))
@settings(max_examples=800)
def test_bit_for_bit_what_gemmlowp_computes(a: int, b: int, n: int) -> None:
    high = rounding_doubling_high_multiply(torch.tensor(a), torch.tensor(b)).item()
    assert high == gemmlowp_high_multiply(a, b)
    assert rounding_right_shift(torch.tensor(a), torch.tensor(n)).item() == gemmlowp_right_shift(a, n)


@pytest.mark.parametrize(
    ("real", "multiplier", "shift"),
    [
        (0.5, 2**30, 0),
        (0.5 - 2.0**-40, 2**30, 0),  # its mantissa rounds up to 1
        (0.5 - 2.0**-31, 2**31 - 2, 1),
        (1.0 - 2.0**-40, 2**30, -1),
        (1.0, 2**30, -1),
        (0.75, 3 * 2**29, 0),
        (2.0**-32, 2**30, 31),
        (2.0**-33, 0, 0),
        (3.0, 3 * 2**29, -2),
    ],
)
def test_known_factors(real: float, multiplier: int, shift: int) -> None:
    factor = fixed_point_of(torch.tensor(real, dtype=torch.float64))
    assert (factor.multiplier.item(), factor.shift.item()) == (multiplier, shift)
    assert factor.multiplier.dtype == factor.shift.dtype == torch.int32


@pytest.mark.parametrize("exponent", range(-32, 31))
def test_relative_error_beside_each_power_of_two(exponent: int) -> None:
    """Where a mantissa rounds up to 1, and where it just does not."""
    below = [2.0**exponent * (1 - 2.0**-bits) for bits in (29, 30, 31, 32, 33, 40, 53)]
    above = [2.0**exponent * (1 + 2.0**-bits) for bits in (29, 30, 31, 32, 40, 52)] if exponent < 30 else []
    reals = [real for real in (*below, *above) if real >= 2.0**-32]
    found = fixed_point_of(torch.tensor(reals, dtype=torch.float64)).real.tolist()
    errors = [abs(Fraction(f) / Fraction(real) - 1) for f, real in zip(found, reals, strict=True)]
    assert max(errors) <= Fraction(1, 2**31)


@given(real=st.floats(2.0**-32, 2.0**30, exclude_max=True))
def test_the_nearest_factor(real: float) -> None:
    found = fixed_point_of(torch.tensor([real], dtype=torch.float64)).real.item()
    assert abs(Fraction(found) / Fraction(real) - 1) <= Fraction(1, 2**31)


def test_ties() -> None:
    assert rounding_right_shift(torch.tensor([1, -1, 3, -3, 2]), torch.tensor(1)).tolist() == [1, -1, 2, -2, 1]
    half = torch.tensor(2**30)
    assert rounding_doubling_high_multiply(torch.tensor([1, -1, 3, -3]), half).tolist() == [1, 0, 2, -1]


def test_one_factor_per_channel() -> None:
    x = torch.tensor([[100, 200], [100, 200]], dtype=torch.int32)
    factor = fixed_point_of(torch.tensor([[0.5], [0.01]], dtype=torch.float64))
    assert multiply(x, factor).tolist() == [[50, 100], [1, 2]]


@given(
    real=st.floats(2.0**-34, 2.0**10),
    divisor=st.integers(1, 2**16) | st.sampled_from([1, 2, 9, 49, 2**16]),
    values=st.lists(st.integers(-(2**24), 2**24), min_size=1, max_size=20),
)
def test_an_average_is_rounded_once(real: float, divisor: int, values: list[int]) -> None:
    """Sums of 2**16 codes at most, which are below 2**24: their product by the fixed-point factor, rounded exactly."""
    factor = fixed_point_of(torch.tensor(real, dtype=torch.float64))
    exact = [Fraction(factor.real.item()) * value / divisor for value in values]
    sums = torch.tensor([values], dtype=torch.int32)
    found = multiply_and_divide(sums, factor, torch.tensor(divisor))
    assert (found.dtype, found.shape) == (torch.int64, sums.shape)
    away_from_zero = [math.floor(abs(x) + Fraction(1, 2)) * (1 if x > 0 else -1) for x in exact]
    vanishes = int(factor.shift) > 14  # then no sum makes a half
    assert found[0].tolist() == ([0] * len(values) if vanishes else away_from_zero)
    assert not vanishes or max(map(abs, exact)) <= 512


def test_each_average_has_its_divisor() -> None:
    sums, half = torch.tensor([[6, 6], [-7, 7]]), fixed_point_of(torch.tensor(0.5, dtype=torch.float64))
    for dtype in (torch.int64, torch.int32, torch.uint8):
        divisors = torch.tensor([1, 4], dtype=dtype)
        assert multiply_and_divide(sums, half, divisors).tolist() == [[3, 1], [-4, 1]]


@pytest.mark.parametrize("real", [2.0**-14, 1.5 * 2.0**-15, 2.0**-15, 1.99 * 2.0**-16])
def test_the_least_factors_of_an_average(real: float) -> None:
    """From 2**-15 down no sum of codes, all below 2**24, counts: only 2**16 codes of 8 bits make so large a sum."""
    factor = fixed_point_of(torch.tensor(real, dtype=torch.float64))
    sums = torch.tensor([2**23, -(2**23)])
    found = multiply_and_divide(sums, factor, torch.tensor(1))
    assert found.tolist() == ([int(2**23 * real), -int(2**23 * real)] if real >= 2.0**-15 else [0, 0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_factors_of_any_float_type(dtype: torch.dtype) -> None:
    factor = fixed_point_of(torch.tensor([0.75, 3.0], dtype=dtype))
    assert (factor.multiplier.tolist(), factor.shift.tolist()) == ([3 * 2**29] * 2, [0, -2])


def test_one_value_by_many_factors() -> None:
    """The last product is beyond 32 bits."""
    factors = fixed_point_of(torch.tensor([0.5, 3.0, 1000.0, 2.0**13], dtype=torch.float64))
    *found, saturated = multiply(torch.tensor(2**20, dtype=torch.int32), factors).tolist()
    assert found == [2**19, 3 * 2**20, 1000 * 2**20]
    assert saturated >= 2**30


def test_a_product_beyond_int32_saturates() -> None:
    factor = fixed_point_of(torch.tensor(2.0**20, dtype=torch.float64))
    found = multiply(torch.tensor([2**20, -(2**20)], dtype=torch.int32), factor)
    assert found.abs().min() >= 2**30


@pytest.mark.parametrize("real", [0.0, -1.0, float("nan"), float("inf"), 2.0**30])
def test_what_is_no_factor(real: float) -> None:
    with pytest.raises(InputError, match="above 0 and below"):
        fixed_point_of(torch.tensor(real))
