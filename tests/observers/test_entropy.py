"""Entropy against TensorRT's calibration, written out in loops."""

import math

import pytest
import torch
from distributions import SYMMETRIC, spec, summarize, tensor
from hypothesis import assume, given
from hypothesis import strategies as st

from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import Entropy
from quant_sweep.observers.entropy import _Cumulative

BINS = 64  # fewer than the candidates, so that every whole number of bins is one


def divergence(counts: dict[int, float], begin: int, end: int, codes: int, total: float) -> float | None:
    """KL(P || Q) of the bins begin .. end - 1, as on Migacz's slide 32; None if no value is inside.

    Slide 32 speaks of bins 0 .. i - 1 of |x| and 128 levels. Here the bins may begin below 0, and a group is chosen by
    code = (bin - begin) * codes // bins, which lets the number of bins be no multiple of the codes.
    """
    inside = [counts.get(i, 0.0) for i in range(begin, end)]
    if not any(inside):
        return None
    p = list(inside)
    p[0] += sum(c for i, c in counts.items() if i < begin)
    p[-1] += sum(c for i, c in counts.items() if i >= end)
    groups: list[list[int]] = [[] for _ in range(codes)]
    for place in range(len(inside)):
        groups[place * codes // len(inside)].append(place)
    q = [0.0] * len(inside)
    for group in groups:
        occupied = [place for place in group if inside[place]]
        for place in occupied:
            q[place] = sum(inside[i] for i in group) / len(occupied)
    sum_p, sum_q = sum(p), sum(q)
    return sum(
        a / sum_p * math.log((a / sum_p) / max(b / sum_q, 1 / total)) for a, b in zip(p, q, strict=True) if a > 0
    )


def least(counts: dict[int, int], codes: int, symmetric: bool) -> tuple[dict[int, float], int]:
    """The divergence of each threshold, in bins, that is worth asking for; and how far the values reach."""
    even = {i: float(c) for i, c in counts.items() if c}
    even[0] = min(even.get(0, 0.0), even.get(1, 0.0))  # zeros cost nothing
    even = {i: c for i, c in even.items() if c}
    lowest, highest = min(0, *even), max(i + 1 for i in (*even, -1))
    reach = max(-lowest, highest)
    found = {}
    for threshold in range(1, reach + 1):
        begin, end = (-threshold, threshold) if symmetric else (max(-threshold, lowest), min(threshold, highest))
        if end - begin > codes:
            kl = divergence(even, begin, end, codes, sum(even.values()))
            if kl is not None:
                found[threshold] = kl
    return found, reach


def of_counts(counts: dict[int, int]) -> Summary:
    """One value in the middle of its bin, bin width 1, per count."""
    bins = torch.tensor([i for i, c in counts.items() for _ in range(c)], dtype=torch.float32)
    histogram = Histogram.of((bins + 0.5)[None], BINS)
    return Summary.of_one_batch(histogram)


def answer(summary: Summary, bits: int, symmetric: bool) -> int:
    """The threshold in bins. The answer is cut at what was seen, the middle of the outermost bin."""
    lo, hi = Entropy().range(summary, spec(bits, SYMMETRIC if symmetric else "affine"))
    return math.ceil(max(-lo.item(), hi.item()))


@given(
    st.lists(st.integers(0, 20), min_size=BINS, max_size=BINS),
    st.sampled_from([2, 3, 4]),
)
def test_behind_a_relu_it_is_tensorrts(counts: list[int], bits: int) -> None:
    counts[-1] = max(counts[-1], 1)  # so that bins are 1 wide
    counts[1] = max(counts[1], 1)
    by_bin = dict(enumerate(counts))
    found, _ = least(by_bin, 2**bits, symmetric=False)
    threshold = answer(of_counts(by_bin), bits, symmetric=False)
    assert found[threshold] <= min(found.values()) + 1e-12


@given(
    st.dictionaries(st.integers(-30, 31), st.integers(1, 20), min_size=2),
    st.sampled_from([2, 3, 4]),
    st.booleans(),
)
def test_on_both_sides(by_bin: dict[int, int], bits: int, symmetric: bool) -> None:
    by_bin = {-31: 1, 31: 1, **by_bin}  # bins are 1 wide, and everything in sight
    found, _ = least(by_bin, 2**bits, symmetric)
    assume(found)
    threshold = answer(of_counts(by_bin), bits, symmetric)
    assert found[threshold] <= min(found.values()) + 1e-12


@given(st.lists(st.integers(0, 20), min_size=16, max_size=40), st.sampled_from([4, 7, 16]))
def test_divergence_is_in_nats(counts: list[int], codes: int) -> None:
    """Of every range from bin 0 on, against the loops."""
    assume(any(counts))
    ends = torch.arange(codes, len(counts) + 1)
    found = _Cumulative.of(torch.tensor(counts, dtype=torch.float64)).divergence(torch.zeros_like(ends), ends, codes)
    by_bin = {i: float(count) for i, count in enumerate(counts)}
    for end, kl in zip(ends.tolist(), found.tolist(), strict=True):
        wanted = divergence(by_bin, 0, end, codes, sum(counts))
        assert kl == (math.inf if wanted is None else pytest.approx(wanted, abs=1e-9))


@pytest.mark.parametrize("codes", [4, 7])
@pytest.mark.parametrize("seed", range(3))
def test_divergence_of_ranges_that_leave_values_out(seed: int, codes: int) -> None:
    """Every range of as many bins as codes or more, against the loops; also those that reach beyond the histogram."""
    counts = torch.randint(-3, 9, (14,), generator=torch.Generator().manual_seed(seed)).clamp(min=0)
    by_bin = {i: float(count) for i, count in enumerate(counts.tolist())}
    ranges = [(begin, end) for begin in range(-3, 14) for end in range(max(begin + codes, 1), 18)]
    begin, end = torch.tensor(ranges).unbind(dim=1)
    found = _Cumulative.of(counts.to(torch.float64)).divergence(begin, end, codes)
    wanted = [divergence(by_bin, *ends, codes, sum(by_bin.values())) for ends in ranges]
    assert found.tolist() == [math.inf if kl is None else pytest.approx(kl, abs=1e-9) for kl in wanted]


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize(("lowest", "highest"), [(0, 40), (0, 33), (5, 40), (-40, -3), (-12, 25), (-33, 2)])
def test_values_that_leave_bins_empty_beyond_them(lowest: int, highest: int, symmetric: bool) -> None:
    """Whatever lies at 0, as behind a ReLU."""
    generator = torch.Generator().manual_seed(0)
    for bits, zeros in ((2, 0), (2, 200), (3, 2), (3, 200), (4, 0)):
        drawn = torch.randint(1, 20, (highest - lowest + 1,), generator=generator).tolist()
        by_bin = dict(enumerate(drawn, lowest)) | {0: zeros} | {lowest: zeros or 1, highest: 1}
        found, _ = least(by_bin, 2**bits, symmetric)
        assert found[answer(of_counts(by_bin), bits, symmetric)] <= min(found.values()) + 1e-12


def test_gaussian_is_clipped_in_the_tail() -> None:
    x = tensor("gaussian", 100_000)
    lo, hi = Entropy().range(summarize(x), spec(8, SYMMETRIC))
    assert 3 < hi < x.max()
    assert lo == pytest.approx(-hi.item(), rel=1e-6)


def test_one_outlier_is_cut_off() -> None:
    """100,000 values of a ReLU, one of which is 100: at 8 bits a range to 100 would leave ten codes to the others."""
    x = torch.cat([tensor("relu", 100_000), torch.tensor([100.0])])
    _, hi = Entropy().range(summarize(x), spec(8))
    assert hi < 30


@pytest.mark.parametrize("size", [1.0, 2.0**-14, 2.0**14])
def test_fine_grids_take_everything(size: float) -> None:
    """With as many codes as bins the divergence says nothing."""
    x = tensor("laplace") * size
    assert [end.item() for end in Entropy().range(summarize(x), spec(16))] == [x.min().item(), x.max().item()]
