"""MSE against the full range and against a dense search over raw samples."""

import pytest
import torch
from distributions import AFFINE, SYMMETRIC, error_of, spec, squared_error, summarize, tensor
from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.observers import MSE, Hist, MinMax

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
