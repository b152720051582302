"""The expected error, held against brute force over evenly spread values and against raw samples."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from quant_sweep.arithmetic.affine import clipped_fraction, fake_quantize, qparams_from_range, sqnr_db_of_values
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.histograms import expected_error
from quant_sweep.histograms.expected_error import Moments, clipped_fraction_of, expected_squared_error, sqnr_db_of
from quant_sweep.histograms.histogram import Histogram

BINS = 16


@st.composite
def small_histograms(draw: st.DrawFn) -> Histogram:
    """One channel of 16 bins with any counts, 0 somewhere among them."""
    counts = draw(st.lists(st.integers(0, 9), min_size=BINS, max_size=BINS).filter(any))
    first, exponent = draw(st.integers(-BINS + 1, 0)), draw(st.integers(-5, 5))
    held = [i for i, c in enumerate(counts) if c]
    lo, hi = ((first + i) * 2.0**exponent for i in (held[0], held[-1] + 1))
    whole = torch.tensor
    return Histogram(whole([lo]), whole([hi]), whole([exponent]), whole([first]), whole([counts]))


def spread(histogram: Histogram, per_bin: int = 500) -> tuple[np.ndarray, np.ndarray]:
    """Values spread evenly in each bin, and what each weighs."""
    inside = (np.arange(per_bin) + 0.5) / per_bin
    left = histogram.edges[0, :-1].numpy()
    values = left[:, None] + inside * histogram.bin_width.item()
    weights = np.broadcast_to(histogram.counts[0].numpy()[:, None] / per_bin, values.shape)
    return values.ravel(), weights.ravel()


def brute_force(histogram: Histogram, levels: np.ndarray) -> float:
    values, weights = spread(histogram)
    return float((weights * np.abs(values[:, None] - levels).min(axis=1) ** 2).sum())


@given(small_histograms(), st.lists(st.integers(-400, 400), min_size=1, max_size=6, unique=True).map(sorted))
def test_squared_error_equals_brute_force(histogram: Histogram, places: list[int]) -> None:
    levels = np.array(places) / 10 * histogram.bin_width.item()
    found = Moments.of(histogram).squared_error(torch.from_numpy(levels)[None, None]).item()
    assert found == pytest.approx(brute_force(histogram, levels), rel=1e-4)


@given(small_histograms(), st.floats(-20, 20), st.floats(-20, 20), st.integers(2, 3), st.booleans())
def test_candidates_are_judged_by_the_real_grid(
    histogram: Histogram, a: float, b: float, bits: int, symmetric: bool
) -> None:
    """Zero-point rounding and saturation included: brute force lays the levels with `qparams_from_range`."""
    spec = QuantSpec(bits, signed=symmetric, symmetric=symmetric)
    lo, hi = (torch.tensor([end * histogram.bin_width.item()]) for end in sorted((a, b)))
    # 16 bins would be judged by the approximation for fine grids.
    found = expected_squared_error(refined(histogram), lo[None].double(), hi[None].double(), spec).item() / 16
    qparams = qparams_from_range(lo[0], hi[0], spec)
    codes = torch.arange(spec.qmin, spec.qmax + 1)
    levels = ((codes - qparams.zero_point) * qparams.scale.double()).numpy()
    assert found == pytest.approx(brute_force(histogram, levels), rel=1e-4, abs=1e-12)


def refined(histogram: Histogram) -> Histogram:
    """The same density on 16 times as many bins, 16 times as heavy (so that the counts stay whole)."""
    counts = histogram.counts.repeat_interleave(16, dim=1)
    return Histogram(histogram.lo, histogram.hi, histogram.exponent - 4, histogram.first * 16, counts)


def samples(kind: str) -> Tensor:
    x = torch.randn(100_000, generator=torch.Generator().manual_seed(0))
    return {"gaussian": x, "relu": x.relu(), "heavy": x**3, "shifted": x - 3}[kind]


def true_error(x: Tensor, lo: float, hi: float, spec: QuantSpec) -> float:
    qparams = qparams_from_range(torch.tensor(lo), torch.tensor(hi), spec)
    return float(((x.double() - fake_quantize(x, qparams).double()) ** 2).sum())


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, 10, 11, 12, 16])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("kind", ["gaussian", "relu", "heavy", "shifted"])
def test_within_two_percent_of_the_raw_samples(kind: str, symmetric: bool, bits: int) -> None:
    x = samples(kind)
    histogram = Histogram.of(x[None])
    spec = QuantSpec(bits, signed=symmetric, symmetric=symmetric)
    ranges = torch.tensor([[x.min() * a, x.max() * b] for a, b in ((1, 1), (0.5, 0.7), (0.8, 0.3))]).double()
    found = expected_squared_error(histogram, ranges[None, :, 0], ranges[None, :, 1], spec)[0].tolist()
    for (lo, hi), error in zip(ranges.tolist(), found, strict=True):
        expected, slack = true_error(x, lo, hi, spec), unevenness(x, histogram, lo, hi, spec)
        assert error == pytest.approx(expected, rel=0.02, abs=slack)


def unevenness(x: Tensor, histogram: Histogram, lo: float, hi: float, spec: QuantSpec) -> float:
    """What taking values as evenly spread may cost where they are not.

    Every grid has a level at 0, where a ReLU's values (and those of a heavy-tailed tensor, nearly) crowd; the values
    in the outermost bins all lie inside the range, although the bins reach beyond it.
    """
    width = histogram.bin_width.item()
    places = torch.tensor([[-1e-30, 0.0, lo, hi]]).double()
    held = histogram.counts[0][(torch.floor(places / width).long() - histogram.first).unique().clamp(0, 4095)].sum()
    slack = float(held) * width**2 / 3
    if spec.bits > 10:  # the approximation for fine grids knows of no level at 0 at all
        step = qparams_from_range(torch.tensor(lo), torch.tensor(hi), spec).scale.item()
        slack += float((x.abs() < step / 2).sum()) * step**2 / 12
    return slack


@pytest.mark.parametrize(("kind", "tolerance"), [("gaussian", 0.01), ("shifted", 0.01), ("heavy", 0.12)])
def test_the_fine_path_continues_the_exact_one(kind: str, tolerance: float) -> None:
    """At 10 bits, the last width of the exact path; the cube of a Gaussian crowds at 0, where every grid is exact."""
    x = samples(kind)
    moments, spec = Moments.of(Histogram.of(x[None])), QuantSpec(10)
    for factor in (1.0, 0.6):
        qparams = qparams_from_range(x.min() * factor, x.max() * factor, spec)
        levels = (torch.arange(spec.qmax + 1) - qparams.zero_point) * qparams.scale.double()
        exact = moments.squared_error(levels[None, None]).item()
        ends = (levels[:1, None], levels[-1:, None], qparams.scale.double()[None, None])
        assert moments.squared_error_of_fine_grid(*ends).item() == pytest.approx(exact, rel=tolerance)


@pytest.mark.parametrize(("bits", "fine"), [(10, False), (11, True)])
def test_where_the_fine_path_begins(bits: int, fine: bool) -> None:
    """4096 bins are fewer than 4 a step from 11 bits on."""
    x, spec = samples("gaussian"), QuantSpec(bits)
    histogram = Histogram.of(x[None])
    lo, hi = (end.double()[None, None] for end in x.aminmax())
    qparams = qparams_from_range(x.min(), x.max(), spec)
    scale = (hi - lo) / spec.steps
    ends = scale * (spec.qmin - qparams.zero_point), scale * (spec.qmax - qparams.zero_point)
    approximated = Moments.of(histogram).squared_error_of_fine_grid(*ends, scale)
    assert (expected_squared_error(histogram, lo, hi, spec) == approximated).item() is fine


@pytest.mark.parametrize("levels_at_once", [2**21, 100])
def test_channels_and_candidates_are_independent(levels_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expected_error, "_LEVELS_AT_ONCE", levels_at_once)
    x = torch.stack([samples(kind) for kind in ("gaussian", "relu", "heavy")])
    spec = QuantSpec(4, channel_axis=0)
    lo, hi = x.amin(dim=1).double(), x.amax(dim=1).double()
    shrink = torch.tensor([1.0, 0.9, 0.5, 0.2], dtype=torch.float64)
    together = expected_squared_error(Histogram.of(x), lo[:, None] * shrink, hi[:, None] * shrink, spec)
    for c in range(3):
        for i, factor in enumerate(shrink):
            alone = expected_squared_error(
                Histogram.of(x[c : c + 1]), lo[c, None, None] * factor, hi[c, None, None] * factor, spec
            )
            assert together[c, i] == alone.item()


@pytest.mark.parametrize("bits", [2, 4, 8, 12, 16])
@pytest.mark.parametrize("kind", ["gaussian", "heavy"])
def test_sqnr_and_clipped_fraction_agree_with_the_values(kind: str, bits: int) -> None:
    x = samples(kind)
    histogram = Histogram.of(x[None])
    qparams = qparams_from_range(x.min() * 0.4, x.max() * 0.5, QuantSpec(bits))
    assert sqnr_db_of(histogram, qparams).item() == pytest.approx(sqnr_db_of_values(x, qparams).item(), abs=0.05)
    # Only the two bins that the ends fall into can be counted wrongly.
    slack = 2 * float(histogram.counts[0][histogram.edges[0, 1:].abs() > x.max() * 0.3].max()) / len(x)
    assert clipped_fraction_of(histogram, qparams).item() == pytest.approx(
        clipped_fraction(x, qparams).item(), abs=slack
    )


def test_no_signal_has_no_sqnr() -> None:
    """A histogram takes zeros as spread over their bin of 2**-126, which is as near to nothing as it knows."""
    zeros = Histogram.of(torch.zeros(1, 10))
    qparams = qparams_from_range(torch.tensor(0.0), torch.tensor(0.0), QuantSpec(8))
    assert clipped_fraction_of(zeros, qparams).item() == 0.0
    assert not sqnr_db_of(zeros, qparams) > 0.0


def known_histogram(seed: int) -> Histogram:
    """Counts that are drawn, also in the first and the last bin, 0 among them."""
    counts = torch.randint(1, 30, (1, BINS), generator=torch.Generator().manual_seed(seed))
    whole = torch.tensor
    return Histogram(whole([-7.0]), whole([9.0]), whole([-1]), whole([-7]), counts * (counts > 6) + counts % 2)


GRIDS_OF_EACH_KIND = [
    QuantSpec(bits, signed, symmetric, narrow)
    for bits, signed, symmetric, narrow in itertools.product((2, 3, 5), *[(False, True)] * 3)
]


@pytest.mark.parametrize("spec", GRIDS_OF_EACH_KIND, ids=str)
def test_each_kind_of_grid_against_values_spread_in_the_bins(spec: QuantSpec) -> None:
    for seed, (lo, hi) in enumerate([(-3.4, 4.4), (-1.0, 1.3), (-9.0, 2.0), (0.0, 4.5), (-3.0, 0.0)]):
        histogram = known_histogram(seed)
        qparams = qparams_from_range(torch.tensor(lo), torch.tensor(hi), spec)
        codes = np.arange(spec.qmin, spec.qmax + 1) - qparams.zero_point.item()
        noise = brute_force(histogram, codes * qparams.scale.double().item())
        values, weights = spread(histogram)
        signal = float((weights * values**2).sum())
        assert sqnr_db_of(histogram, qparams).item() == pytest.approx(10 * np.log10(signal / noise), abs=1e-3)

        half = qparams.scale.item() / 2
        outside = (values < qparams.lo.item() - half) | (values > qparams.hi.item() + half)
        clipped = float((weights * outside).sum() / weights.sum())
        assert clipped_fraction_of(histogram, qparams).item() == pytest.approx(clipped, abs=1e-3)

        ends = (torch.tensor([[end]]).double() for end in (lo, hi))
        assert expected_squared_error(refined(histogram), *ends, spec).item() == pytest.approx(16 * noise, rel=1e-3)
