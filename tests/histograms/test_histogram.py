"""Counting, held against whole-number arithmetic in plain Python; merging, against counting at once."""

import itertools
import math
import random
from collections import Counter
from fractions import Fraction

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.histograms.histogram import Histogram

anything = st.floats(width=32, allow_nan=False, allow_infinity=False)  # zeros, subnormals and 3e38 included
ordinary = st.floats(-8, 8, width=32)
samples = st.one_of(
    st.lists(anything, min_size=1, max_size=40),
    st.lists(ordinary, min_size=1, max_size=40),
    st.builds(lambda value, n: [value] * n, anything, st.integers(1, 40)),
)
bin_numbers = st.sampled_from([4, 16, 64, 4096])


def count(values: list[float], bins: int = 16) -> Histogram:
    return Histogram.of(torch.tensor([values], dtype=torch.float32), bins)


def assert_same(a: Histogram, b: Histogram) -> None:
    for field in ("lo", "hi", "exponent", "first", "counts"):
        assert torch.equal(getattr(a, field), getattr(b, field)), field


def twin(values: list[float], bins: int) -> tuple[int, dict[int, int]]:
    """Exponent and counts by bin, with fractions: the definition in the module's text, spelt out."""
    exact = [Fraction(v) for v in torch.tensor(values, dtype=torch.float32).tolist()]
    low, high = min(*exact, Fraction(0)), max(*exact, Fraction(0))
    exponent = next(
        e
        for e in itertools.count(-126)
        if math.floor(high / Fraction(2) ** e) - math.floor(low / Fraction(2) ** e) < bins
    )
    return exponent, Counter(math.floor(v / Fraction(2) ** exponent) for v in exact)


@given(samples, bin_numbers)
@example([-1e-45, 3e38], 16)  # times 2**-exponent the first one underflows
@example([-1e-45, 9000.0], 4096)
@example([1e-45], 16)
def test_equals_the_twin_in_fractions(values: list[float], bins: int) -> None:
    assert_equals_twin(count(values, bins), values)


def assert_equals_twin(histogram: Histogram, values: list[float], channel: int = 0) -> None:
    exponent, expected = twin(values, histogram.bins)
    first = int(histogram.first[channel])
    found = {first + i: c for i, c in enumerate(histogram.counts[channel].tolist()) if c}
    assert (int(histogram.exponent[channel]), found) == (exponent, dict(expected))
    assert first == math.floor(min(*values, 0.0) / 2.0**exponent)
    assert (histogram.lo[channel], histogram.hi[channel]) == (torch.tensor(min(values)), torch.tensor(max(values)))
    assert int(histogram.total[channel]) == len(values)
    assert {whole.dtype for whole in (histogram.exponent, histogram.first, histogram.counts)} == {torch.int64}
    assert {end.dtype for end in (histogram.lo, histogram.hi)} == {torch.float32}


# Ends at and beside powers of two, one sign and both, in bins that are wide, narrow, and 1 and 2 wide.
KNOWN = [
    [0.0, 0.0], [0.3, 0.2], [-0.3, 0.2], [15.0, 3.0], [15.99, 0.0], [16.0, 1.0], [-16.0, -2.5], [-16.5, -1.0],
    [-1.0, 15.0], [-0.5, 15.5], [-8.0, 7.99], [-8.0, 8.0], [-7.0, 9.0], [-9.5, 23.0], [-1e-45, 20.0], [-1e-45, 9000.0],
    [-1e-45, 3e38], [-3e38, 1e-45], [1e-45, 2e-45], [-1e-45, -2e-45], [1e-38, -1e-39], [100.0, 101.0], [3e38, 2e38],
]  # fmt: skip


@pytest.mark.parametrize("values", KNOWN, ids=str)
def test_known_ends(values: list[float]) -> None:
    for bins in (4, 16):
        assert_equals_twin(count(values, bins), values)


@pytest.mark.parametrize("channels", [2, 3])
def test_known_channels(channels: int) -> None:
    """Each one's bins are as wide as it needs."""
    for chosen in itertools.pairwise(KNOWN):
        rows = [*chosen, KNOWN[3]][:channels]
        histogram = Histogram.of(torch.tensor(rows), 16)
        for channel, row in enumerate(rows):
            assert_equals_twin(histogram, row, channel)


@pytest.mark.parametrize(("channels", "length"), [(1, 2**18 + 3), (2, 2**17), (3, 50_001), (150_000, 2)])
@pytest.mark.parametrize("lowest", [-2, 0])
def test_more_values_than_are_counted_at_once(channels: int, length: int, lowest: int) -> None:
    values = torch.randint(lowest, lowest + 4, (channels, length), generator=torch.Generator().manual_seed(0))
    values[:, 0], values[:, 1] = lowest, lowest + 3
    histogram = Histogram.of(values.float(), 4)
    assert histogram.first.unique().tolist() == [lowest]
    for channel in range(min(channels, 3)):
        assert torch.equal(histogram.counts[channel], torch.bincount(values[channel] - lowest, minlength=4))
    assert bool((histogram.total == length).all())


@pytest.mark.parametrize("values", [[1.0, 2.0, 3.0, 15.99], [-14.5, -3.0, -0.5], [-8.0, -1.0, 3.0, 7.9, 7.9]])
def test_known_quantiles(values: list[float]) -> None:
    """16 bins, 1 wide, the first or the last of which holds an end."""
    histogram = count(values)
    assert histogram.bin_width.item() == 1.0
    for k in range(1, len(values) + 1):
        for fraction in (k / len(values), (k - 0.5) / len(values)):
            assert histogram.quantile(fraction).item() == pytest.approx(sorted(values)[k - 1], abs=1.0)


@given(samples, bin_numbers, st.integers(1, 6), st.randoms(use_true_random=False))
@example([-1e-45, 3e38], 16, 2, random.Random(0))
def test_merging_in_any_split_and_order_equals_counting_at_once(
    values: list[float], bins: int, parts: int, chance: random.Random
) -> None:
    shuffled = chance.sample(values, len(values))
    cuts = sorted({0, len(values), *(chance.randint(0, len(values)) for _ in range(parts))})
    batches = [count(shuffled[a:b], bins) for a, b in itertools.pairwise(cuts)]
    while len(batches) > 1:  # merged as a random tree, not only one after the other
        one, other = (batches.pop(chance.randrange(len(batches))) for _ in range(2))
        batches.append(one.merge(other))
    assert_same(batches[0], count(values, bins))


@given(st.lists(st.lists(anything, min_size=5, max_size=5), min_size=1, max_size=4))
def test_channels_are_independent(rows: list[list[float]]) -> None:
    together = Histogram.of(torch.tensor(rows), 16)
    for c, row in enumerate(rows):
        alone = count(row)
        one = slice(c, c + 1)
        assert_same(
            Histogram(
                together.lo[one], together.hi[one], together.exponent[one], together.first[one], together.counts[one]
            ),
            alone,
        )


@given(samples, st.sampled_from([16, 4096]))
def test_bins_hold_what_they_say(values: list[float], bins: int) -> None:
    histogram = count(values, bins)
    edges = histogram.edges[0]
    x = torch.tensor(values, dtype=torch.float32).to(torch.float64)
    expected = [int(((x >= a) & (x < b)).sum()) for a, b in itertools.pairwise(edges.tolist())] if bins == 16 else None
    assert edges[0] <= min(0.0, *values)
    assert edges[-1] > max(0.0, *values)
    assert expected is None or histogram.counts[0].tolist() == expected


@given(st.lists(ordinary, min_size=1, max_size=200), st.floats(0, 1), st.sampled_from([16, 4096]))
def test_quantile_is_within_one_bin_of_kthvalue(values: list[float], fraction: float, bins: int) -> None:
    histogram = count(values, bins)
    k = max(1, math.ceil(fraction * len(values)))
    kth = torch.kthvalue(torch.tensor(values, dtype=torch.float32), k).values
    found = histogram.quantile(fraction)
    assert found.dtype == torch.float32
    assert found.shape == (1,)
    assert abs(found.double() - kth.double()) <= histogram.bin_width * (1 + 1e-6)
    assert histogram.lo <= found <= histogram.hi


@given(st.lists(anything, min_size=1, max_size=30), st.lists(st.floats(0, 1), min_size=2, max_size=5).map(sorted))
def test_quantiles_are_monotone(values: list[float], fractions: list[float]) -> None:
    histogram = count(values)
    found = [histogram.quantile(f).item() for f in fractions]
    assert found == sorted(found)
    assert histogram.quantile(1.0) == max(values)


def test_counts_beyond_what_float32_can_count() -> None:
    histogram = count([0.25, 0.25, 1.0])
    for _ in range(26):
        histogram = histogram.merge(histogram)
    histogram = histogram.merge(count([0.25]))
    assert histogram.total.tolist() == [3 * 2**26 + 1]
    assert sorted(histogram.counts[0].tolist())[-2:] == [2**26, 2**27 + 1]
    assert histogram.quantile(2 / 3).item() == pytest.approx(0.25, abs=histogram.bin_width.item())


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        (torch.zeros(1, 0), "empty"),
        (torch.tensor([[0.0, float("nan")]]), "NaN or infinity"),
        (torch.tensor([[0.0, 1.0], [float("inf"), 0.0]]), "NaN or infinity"),
        (torch.tensor([[-float("inf")]]), "NaN or infinity"),
    ],
)
def test_nothing_and_non_finite_values_are_refused(values: Tensor, problem: str) -> None:
    with pytest.raises(InputError, match=problem):
        Histogram.of(values)


def test_different_shapes_do_not_merge() -> None:
    with pytest.raises(ValueError, match="do not merge"):
        count([1.0], 16).merge(count([1.0], 32))
