"""Properties of the arithmetic, and agreement with a float64 twin and with torch.ao.

Float tolerances: `x / scale` and `scale * (q - zero_point)` are each rounded once to float32, so a value may come out
half a step away plus a few units in the last place of its own size.
"""

import dataclasses
import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor
from torch.ao.quantization.observer import MinMaxObserver, PerChannelMinMaxObserver

from quant_sweep.arithmetic.affine import (
    clipped_fraction,
    dequantize,
    fake_quantize,
    grid_of_range,
    qparams_from_range,
    quantize,
    sqnr_db,
    sqnr_db_of_values,
)
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.errors import InputError

EPS = torch.finfo(torch.float32).eps
TINY = torch.finfo(torch.float32).tiny
MAX = torch.finfo(torch.float32).max


@st.composite
def specs(draw: st.DrawFn, channel_axis: int | None = None) -> QuantSpec:
    flag = st.booleans()
    return QuantSpec(
        draw(st.integers(2, 16)),
        signed=draw(flag),
        symmetric=draw(flag),
        narrow_range=draw(flag),
        channel_axis=channel_axis,
    )


magnitudes = st.floats(-30, 30).map(lambda e: 2.0**e)
ends = st.one_of(
    st.just(0.0),
    st.floats(-100, 100, width=32).map(lambda v: v if abs(v) > 1e-9 else 0.0),  # tiny ones have a test of their own
    st.builds(lambda m, sign: float(np.float32(m * sign)), magnitudes, st.sampled_from([-1, 1])),
)
ranges = st.tuples(ends, ends).map(sorted)


def grid(lo: float, hi: float, spec: QuantSpec) -> QParams:
    return qparams_from_range(torch.tensor(lo), torch.tensor(hi), spec)


def values_inside(lo: Tensor, hi: Tensor) -> Tensor:
    """401 values from lo to hi, both included, float32 (401,)."""
    share = torch.linspace(0, 1, 401, dtype=torch.float64)
    return (lo.double() + share * (hi.double() - lo.double())).float()


def tolerance(x: Tensor, qparams: QParams) -> Tensor:
    return qparams.scale.double() / 2 + 2 * EPS * x.double().abs()


@given(ranges, specs())
def test_inside_the_grid_the_error_is_half_a_step_at_most(ends: list[float], spec: QuantSpec) -> None:
    qparams = grid(*ends, spec)
    x = values_inside(qparams.lo, qparams.hi)
    assert ((x.double() - fake_quantize(x, qparams).double()).abs() <= tolerance(x, qparams)).all()


@given(ranges, specs())
def test_inside_the_observed_range_too(ends: list[float], spec: QuantSpec) -> None:
    """The rounded zero-point moves the grid by half a step, no further; a full signed symmetric grid ends half a
    step before hi, because it has one code less above 0 than below."""
    qparams = grid(*ends, spec)
    x = values_inside(torch.tensor(ends[0]), torch.tensor(ends[1]))
    assert ((x.double() - fake_quantize(x, qparams).double()).abs() <= tolerance(x, qparams)).all()


@given(ranges, specs(), st.floats(0.5, 1e6))
def test_saturation_outside(ends: list[float], spec: QuantSpec, beyond: float) -> None:
    qparams = grid(*ends, spec)
    far = torch.stack([qparams.lo - qparams.scale * beyond, qparams.hi + qparams.scale * beyond])
    assert quantize(far, qparams).tolist() == [spec.qmin, spec.qmax]
    infinite = torch.tensor([-torch.inf, torch.inf])
    assert quantize(infinite, qparams).tolist() == [spec.qmin, spec.qmax]
    assert fake_quantize(infinite, qparams).tolist() == [qparams.lo.item(), qparams.hi.item()]


@given(ranges, specs())
def test_zero_is_exact(ends: list[float], spec: QuantSpec) -> None:
    qparams = grid(*ends, spec)
    assert quantize(torch.zeros(1), qparams).item() == qparams.zero_point.item()
    assert fake_quantize(torch.zeros(1), qparams).item() == 0.0


@given(ranges, specs())
def test_every_code_is_a_fixed_point(ends: list[float], spec: QuantSpec) -> None:
    qparams = grid(*ends, spec)
    codes = torch.arange(spec.qmin, spec.qmax + 1, dtype=torch.int32)
    assert torch.equal(quantize(dequantize(codes, qparams), qparams), codes)


@given(ranges, specs())
def test_monotone(ends: list[float], spec: QuantSpec) -> None:
    qparams = grid(*ends, spec)
    margin = 3 * qparams.scale
    x = values_inside(qparams.lo - margin, qparams.hi + margin)
    assert (quantize(x, qparams).diff() >= 0).all()


@given(ranges, specs())
def test_agrees_with_a_float64_twin(ends: list[float], spec: QuantSpec) -> None:
    lo, hi = min(np.float64(ends[0]), 0.0), max(np.float64(ends[1]), 0.0)
    if spec.symmetric:
        lo, hi = -max(-lo, hi), max(-lo, hi)
    scale = (hi - lo) / spec.steps if hi > lo else np.float64(1)
    middle = 0 if spec.signed else 2 ** (spec.bits - 1)
    zero_point = middle if spec.symmetric else np.clip(spec.qmin - np.rint(lo / scale), spec.qmin, spec.qmax)

    qparams = grid(*ends, spec)
    np.testing.assert_allclose(qparams.scale.item(), scale, rtol=4 * EPS)
    position = abs(lo / scale) % 1  # where lo lies between two codes; at a half either neighbour is right
    assume(spec.symmetric or abs(position - 0.5) > spec.steps * 4 * EPS)
    assert qparams.zero_point.item() == zero_point

    # From here on with the float32 scale, so that only the rounding of the quotient can differ.
    x = values_inside(qparams.lo, qparams.hi).numpy()
    exact = x.astype(np.float64) / np.float64(qparams.scale.item())
    codes = np.clip(np.rint(exact) + zero_point, spec.qmin, spec.qmax)
    unclear = np.abs(np.abs(exact % 1) - 0.5) <= spec.steps * 2 * EPS
    np.testing.assert_array_equal(quantize(torch.from_numpy(x), qparams).numpy()[~unclear], codes[~unclear])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@given(ranges, specs())
def test_fake_quantize_is_the_value_of_the_code(dtype: torch.dtype, ends: list[float], spec: QuantSpec) -> None:
    qparams = grid(*ends, spec)
    x = values_inside(qparams.lo * 1.1, qparams.hi * 1.1).to(dtype)
    value, expected = fake_quantize(x, qparams), dequantize(quantize(x, qparams), qparams)
    assert value.dtype == torch.float32
    assert torch.equal(value.view(torch.int32), expected.view(torch.int32))  # the sign of zero included


EACH_KIND = [
    QuantSpec(bits, signed, symmetric, narrow)
    for bits, signed, symmetric, narrow in itertools.product((2, 3, 8, 16), *[(False, True)] * 3)
]
KNOWN_RANGES = [(-1.0, 0.9), (-0.2, 0.77), (0.0, 1.0), (-1.0, 0.0), (3.0, 5.5), (-700.0, 2.0), (0.0, 0.0)]


@pytest.mark.parametrize("spec", EACH_KIND, ids=str)
def test_each_kind_of_grid_over_known_ranges(spec: QuantSpec) -> None:
    """Channel by channel in float64; the middle of a symmetric grid is 0, or 2**(bits - 1) if unsigned."""
    lo, hi = np.array(KNOWN_RANGES).T
    low, high = np.minimum(lo, 0), np.maximum(hi, 0)
    if spec.symmetric:
        high = np.maximum(-low, high)
        low = -high
    scale = np.where(high > low, (high - low) / spec.steps, 1.0)
    middle = 0 if spec.signed else 2 ** (spec.bits - 1)
    zero_point = np.full(len(lo), middle) if spec.symmetric else spec.qmin - np.rint(low / scale)

    ends = torch.tensor(lo), torch.tensor(hi)
    exact_scale, exact_zero_point = grid_of_range(*ends, spec)
    np.testing.assert_allclose(exact_scale.numpy(), scale, rtol=1e-15)
    np.testing.assert_array_equal(exact_zero_point.numpy(), zero_point)

    channels = dataclasses.replace(spec, channel_axis=1)
    for qparams in (qparams_from_range(*ends, channels), qparams_from_range(ends[0].float(), ends[1], channels)):
        np.testing.assert_allclose(qparams.scale.numpy(), scale, rtol=4 * EPS)
        np.testing.assert_array_equal(qparams.zero_point.numpy(), zero_point)

    x = torch.tensor((low + np.linspace(-0.3, 1.3, 23)[:, None] * (high - low))[..., None])  # (23, channels, 1)
    codes = np.rint(x.numpy() / qparams.scale.double().numpy()[:, None]) + zero_point[:, None]
    codes = np.clip(codes, spec.qmin, spec.qmax)
    np.testing.assert_array_equal(quantize(x, qparams).numpy(), codes)
    values = (codes - zero_point[:, None]) * qparams.scale.double().numpy()[:, None]
    for made in (dequantize(torch.tensor(codes, dtype=torch.int32), qparams), fake_quantize(x, qparams)):
        assert made.dtype == torch.float32
        np.testing.assert_allclose(made.numpy(), values, rtol=EPS)


def test_rounds_half_to_even() -> None:
    qparams = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec(8, signed=True))
    assert quantize(torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5]), qparams).tolist() == [-2, -2, 0, 0, 2, 2]


@given(st.lists(ranges, min_size=1, max_size=5), specs(channel_axis=1))
def test_channels_are_independent(channel_ranges: list[list[float]], spec: QuantSpec) -> None:
    lo, hi = torch.tensor(channel_ranges).unbind(dim=1)
    together = qparams_from_range(lo, hi, spec)
    x = torch.stack([values_inside(a, b) for a, b in zip(lo, hi, strict=True)])[None].transpose(0, 2)  # (401, c, 1)
    codes, fractions, ratios = quantize(x, together), clipped_fraction(x, together), sqnr_db_of_values(x, together)
    alone_spec = QuantSpec(spec.bits, spec.signed, spec.symmetric, spec.narrow_range)
    for c, (a, b) in enumerate(channel_ranges):
        alone, values = grid(a, b, alone_spec), x[:, c]
        assert together.scale[c] == alone.scale
        assert together.zero_point[c] == alone.zero_point
        assert torch.equal(codes[:, c], quantize(values, alone))
        assert torch.equal(dequantize(codes, together)[:, c], fake_quantize(values, alone))
        assert fractions[c] == clipped_fraction(values, alone)
        torch.testing.assert_close(ratios[c], sqnr_db_of_values(values, alone), equal_nan=True)


@given(specs())
def test_no_width_gets_scale_one(spec: QuantSpec) -> None:
    assert grid(0.0, 0.0, spec).scale.item() == 1.0


@given(specs(), st.sampled_from([1e-45, 1e-40, TINY / 2, TINY, 1e-36]), st.sampled_from([-1, 1]))
def test_tiny_widths_keep_a_usable_scale(spec: QuantSpec, size: float, sign: int) -> None:
    qparams = grid(*sorted((0.0, sign * size)), spec)
    assert qparams.scale >= TINY
    assert (1 / qparams.scale).isfinite()
    codes = torch.arange(spec.qmin, spec.qmax + 1, dtype=torch.int32)
    assert torch.equal(quantize(dequantize(codes, qparams), qparams), codes)


@pytest.mark.parametrize(("lo", "hi"), [(-MAX, MAX), (-3e38, 1e38)])
def test_overflowing_width_is_refused(lo: float, hi: float) -> None:
    with pytest.raises(InputError, match=r"hi - lo overflows.*lo=.*hi="):
        grid(lo, hi, QuantSpec(8))


def test_mirrored_width_that_overflows_is_refused() -> None:
    grid(0.0, 3e38, QuantSpec(8))
    with pytest.raises(InputError, match="overflows"):
        grid(0.0, 3e38, QuantSpec(8, symmetric=True))


@pytest.mark.parametrize(
    ("lo", "hi", "shown"),
    [(float("nan"), 1.0, "nan"), (0.0, float("nan"), "nan"), (-float("inf"), 0.0, "-inf"), (2.0, 1.5, "hi=.*1.5")],
)
def test_bad_ranges_are_refused_with_their_values(lo: float, hi: float, shown: str) -> None:
    with pytest.raises(InputError, match=f"finite.*{shown}"):
        grid(lo, hi, QuantSpec(8))
    with pytest.raises(InputError, match=f"finite.*{shown}"):
        qparams_from_range(torch.tensor([0.0, lo]), torch.tensor([1.0, hi]), QuantSpec(8, channel_axis=0))


def test_shapes_of_lo_and_hi_must_agree() -> None:
    with pytest.raises(InputError, match=r"\(2,\) and \(3,\)"):
        qparams_from_range(torch.zeros(2), torch.ones(3), QuantSpec(8, channel_axis=0))


def test_nan_has_no_code() -> None:
    with pytest.raises(InputError, match=r"1 of 2 values"):
        quantize(torch.tensor([0.0, float("nan")]), grid(0.0, 1.0, QuantSpec(8)))


def ranges_for_torch_ao() -> Tensor:
    """Values whose extremes span many magnitudes, float32 (200, 9). torch.ao never goes below scale 2**-23."""
    generator = torch.Generator().manual_seed(0)
    size = 2.0 ** torch.linspace(-14, 20, 200)[:, None]
    x = (torch.randn(200, 9, generator=generator) + torch.randn(200, 1, generator=generator)) * size
    x[::5] = x[::5].abs()
    x[1::5] = -x[1::5].abs()
    return x


@pytest.mark.parametrize(
    ("qscheme", "dtype", "spec"),
    [
        (torch.per_tensor_affine, torch.quint8, QuantSpec(8)),
        (torch.per_tensor_symmetric, torch.qint8, QuantSpec(8, signed=True, symmetric=True)),
        (torch.per_tensor_symmetric, torch.quint8, QuantSpec(8, symmetric=True)),
    ],
)
def test_equals_torch_ao_per_tensor(qscheme: torch.qscheme, dtype: torch.dtype, spec: QuantSpec) -> None:
    for x in ranges_for_torch_ao():
        observer = MinMaxObserver(dtype=dtype, qscheme=qscheme)
        observer(x)
        scale, zero_point = observer.calculate_qparams()
        ours = qparams_from_range(x.min(), x.max(), spec)
        assert ours.scale.item() == scale.item()
        assert ours.zero_point.item() == zero_point.item()


def test_equals_torch_ao_per_channel_symmetric() -> None:
    x = ranges_for_torch_ao()
    observer = PerChannelMinMaxObserver(ch_axis=0, dtype=torch.qint8, qscheme=torch.per_channel_symmetric)
    observer(x)
    scale, zero_point = observer.calculate_qparams()
    spec = QuantSpec(8, signed=True, symmetric=True, channel_axis=0)
    ours = qparams_from_range(x.amin(dim=1), x.amax(dim=1), spec)
    assert torch.equal(ours.scale, scale)
    assert torch.equal(ours.zero_point, zero_point.to(torch.int32))


@given(ranges, specs())
def test_equals_torchs_fused_fake_quantize(ends: list[float], spec: QuantSpec) -> None:
    """The kernel multiplies by 1 / scale, so values within rounding of a half may go to the other neighbour."""
    qparams = grid(*ends, spec)
    x = values_inside(qparams.lo * 1.1, qparams.hi * 1.1)
    position = (x.double() / qparams.scale.double()) % 1
    x = x[(position - 0.5).abs() > spec.steps * 8 * EPS]
    fused = torch.fake_quantize_per_tensor_affine(x, qparams.scale, qparams.zero_point, spec.qmin, spec.qmax)
    torch.testing.assert_close(fake_quantize(x, qparams), fused, rtol=0, atol=0)


def test_clipped_fraction_counts_what_saturation_moves() -> None:
    qparams = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec(2, signed=True))  # -2 .. 1
    x = torch.tensor([-2.6, -2.5, -2.0, 0.0, 1.0, 1.5, 1.6, 9.0])
    assert clipped_fraction(x, qparams).item() == 3 / 8
    assert clipped_fraction(x[-3:], qparams).item() == 2 / 3, "in float64"


def test_sqnr_against_its_definition() -> None:
    qparams = grid(-1.0, 1.0, QuantSpec(4))
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0))
    noise = x - fake_quantize(x, qparams)
    expected = 10 * np.log10(float((x.double() ** 2).sum() / (noise.double() ** 2).sum()))
    assert sqnr_db_of_values(x, qparams).item() == pytest.approx(expected, abs=1e-5)
    assert sqnr_db_of_values(qparams.hi[None], qparams).item() == float("inf")
    assert sqnr_db_of_values(torch.zeros(3), qparams).isnan()


@pytest.mark.parametrize("exponent", [-90, 90])
def test_sqnr_of_values_whose_squares_float32_cannot_hold(exponent: int) -> None:
    x = torch.randn(3, 100, generator=torch.Generator().manual_seed(0))
    for values, axis in ((x[0], None), (x, 0)):
        plain, far = (
            sqnr_db_of_values(v, qparams_from_range(v.amin(dim=-1), v.amax(dim=-1), QuantSpec(4, channel_axis=axis)))
            for v in (values, values * 2.0**exponent)
        )
        torch.testing.assert_close(plain, far, rtol=1e-12, atol=0)


def test_sqnr_of_what_another_made() -> None:
    x, qparams = torch.tensor([3.0, 4.0]), grid(0.0, 4.0, QuantSpec(8))
    assert sqnr_db_of_values(x, qparams, torch.tensor([3.0, 3.5])).item() == pytest.approx(20)  # 25 / 0.25
    assert sqnr_db_of_values(x, qparams, x).item() == math.inf


def test_sqnr_of_powers() -> None:
    assert sqnr_db(100.0, 1.0).item() == pytest.approx(20)
    assert sqnr_db(1.0, 0.0).item() == math.inf
    assert sqnr_db(0.0, 1.0).item() == -math.inf
    assert sqnr_db(0.0, 0.0).isnan()
    ratios = sqnr_db(torch.tensor([10.0, 1.0]), torch.tensor([1.0, 10.0]))
    torch.testing.assert_close(ratios, torch.tensor([10.0, -10.0], dtype=torch.float64))
