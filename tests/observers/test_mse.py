"""MSE against the full range and against a dense search over raw samples."""

import pytest
import torch
from distributions import AFFINE, SYMMETRIC, error_of, spec, squared_error, summarize, tensor
from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.histograms.expected_error import high_resolution_error
from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import MSE, Hist, MinMax
from quant_sweep.observers.mse import _both_ends

NAMES = ("gaussian", "relu", "negative", "shifted", "laplace", "heavy", "lognormal", "uniform", "one outlier")


@pytest.mark.parametrize("kind", [AFFINE, SYMMETRIC])
@pytest.mark.parametrize("name", [*NAMES, "constant", "zeros", "one value", "tiny"])
def test_never_worse_than_the_full_range(name: str, kind: str) -> None:
    x = tensor(name, 20_000)
    for bits in (2, 3, 4, 8, 12):
        grid = spec(bits, kind)
        # A constant may be exact on its own full range, where the histogram only knows its bin.
        slack = len(x) * (x.abs().max().item() / 2048) ** 2 if name in {"constant", "one value"} else 0.0
        assert error_of(MSE(), x, grid) <= 1.01 * error_of(MinMax(), x, grid) + slack, bits


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("name", NAMES)
def test_never_much_worse_than_the_greedy_search(name: str, bits: int) -> None:
    x = tensor(name, 20_000)
    assert error_of(MSE(), x, spec(bits)) <= 1.02 * error_of(Hist(), x, spec(bits))


def brute_force(x: Tensor, grid: QuantSpec) -> float:
    """Least true error over 40 x 40 ranges (40 mirrored ones if symmetric)."""
    lo, hi = x.min().clamp(max=0), x.max().clamp(min=0)
    if grid.symmetric:
        reach = torch.maximum(-lo, hi)
        return min(squared_error(x, -reach * f, reach * f, grid) for f in torch.linspace(0.02, 1, 100))
    lows, highs = (torch.linspace(0.02, 1, 40) if end != 0 else torch.ones(1) for end in (lo, hi))
    return min(squared_error(x, lo * a, hi * b, grid) for a in lows for b in highs)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [AFFINE, SYMMETRIC])
@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("name", ["gaussian", "relu", "shifted", "laplace", "lognormal", "heavy"])
def test_within_three_percent_of_a_dense_search_on_raw_samples(name: str, bits: int, kind: str) -> None:
    x = tensor(name, 3000)
    assert error_of(MSE(), x, spec(bits, kind)) <= 1.03 * brute_force(x, spec(bits, kind))


def test_symmetric_ranges_are_mirrored() -> None:
    for name in NAMES:
        lo, hi = MSE().range(summarize(tensor(name)), spec(4, SYMMETRIC))
        assert torch.equal(lo, -hi)


@pytest.mark.parametrize("kind", [AFFINE, SYMMETRIC])
def test_down_to_a_sixtieth_of_what_was_seen_is_searched(kind: str) -> None:
    """One value of 1 and so many up to 1/256 that this would be the best range; 1/53 ends the coarse search."""
    counts = torch.zeros(1, 4096, dtype=torch.int64)
    counts[:, :16], counts[:, -1] = 10**8, 1
    histogram = Histogram(*(torch.tensor([v]) for v in (0.0, 1.0, -12, 0)), counts)
    _, hi = MSE().range(Summary.of_one_batch(histogram), spec(3, kind))
    assert 1 / 70 < hi.item() < 1 / 50


@pytest.mark.parametrize(
    ("lo", "hi", "candidates"),
    [([-1.0], [2.0], 25), ([0.0], [2.0], 5), ([-1.0], [0.0], 5), ([0.0, -1.0], [2.0, 0.0], 25), ([0.0], [0.0], 1)],
)
def test_only_an_end_that_is_not_0_is_moved(lo: list[float], hi: list[float], candidates: int) -> None:
    """Else the search behind a ReLU would take 24 times as long."""
    steps, seen = torch.arange(5.0), torch.tensor([lo, hi]).T
    assert _both_ends(steps, seen, symmetric=False).unique(dim=0).shape == (candidates, 2)
    assert _both_ends(steps, seen, symmetric=False).shape == (candidates, 2)
    assert _both_ends(steps, seen, symmetric=True).tolist() == [[step, step] for step in steps.tolist()]


@pytest.mark.parametrize(
    ("grid", "coarse_passes"),
    [(spec(7), 0), (QuantSpec(8, signed=True, symmetric=True, narrow_range=True), 1), (spec(8), 1), (spec(9), 1)],
)
def test_steps_count_as_fine_in_the_coarse_search_from_8_bits_on(
    grid: QuantSpec, coarse_passes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[QuantSpec] = []

    def counting(histogram: Histogram, lo: Tensor, hi: Tensor, spec: QuantSpec) -> Tensor:
        asked.append(spec)
        return high_resolution_error(histogram, lo, hi, spec)

    monkeypatch.setattr("quant_sweep.observers.mse.high_resolution_error", counting)
    MSE().range(summarize(tensor("gaussian")), grid)
    assert asked == [grid] * coarse_passes
