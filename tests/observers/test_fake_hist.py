"""FakeHist is the study's running average of torch.kthvalue, within one bin."""

import math

import pytest
import torch
from distributions import spec, summarize, tensor

from quant_sweep.errors import InputError
from quant_sweep.observers import FakeHist


@pytest.mark.parametrize("percentile", [99.99, 99.0, 75.0, 100.0])
@pytest.mark.parametrize("momentum", [0.1, 1.0])
@pytest.mark.parametrize("name", ["gaussian", "relu", "negative", "heavy"])
def test_equals_a_running_average_of_kthvalue(name: str, momentum: float, percentile: float) -> None:
    batches = [tensor(name, 20_000, seed) for seed in range(5)]
    upper = percentile / 100
    expected: list[float] = []
    for fraction in (1 - upper, upper):
        k = max(1, math.ceil(fraction * 20_000))
        found = [torch.kthvalue(batch, k).values.item() for batch in batches]
        average = found[0]
        for value in found[1:]:
            average = (1 - momentum) * average + momentum * value
        expected.append(average)
    summary = summarize(*batches)
    width = max(batch.bin_width.item() for batch in summary.recent)
    ends = FakeHist(percentile, momentum).range(summary, spec(8))
    assert [end.item() for end in ends] == pytest.approx(expected, abs=width * (1 + 1e-6))


def test_everything_is_minmax_of_the_batch() -> None:
    x = tensor("gaussian")
    lo, hi = FakeHist(100.0).range(summarize(x), spec(8))
    assert hi == x.max()
    assert lo == pytest.approx(x.min().item(), abs=summarize(x).total.bin_width.item())


@pytest.mark.parametrize("value", [0.0, 50.0, 101.0, 100.0001, -1.0, float("nan"), float("inf")])
def test_bad_percentile(value: float) -> None:
    with pytest.raises(InputError, match=rf"^percentile={value}: allowed are values above 50, up to 100$"):
        FakeHist(percentile=value)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan")])
def test_bad_momentum(value: float) -> None:
    with pytest.raises(InputError, match=rf"^momentum={value}: allowed are values above 0, up to 1$"):
        FakeHist(momentum=value)


@pytest.mark.parametrize("percentile", [50.001, 50.5, 100.0])
def test_a_percentile_may_be_anything_above_the_median(percentile: float) -> None:
    x = torch.arange(1001) / 1000
    lo, hi = FakeHist(percentile).range(summarize(x), spec(8))
    assert [lo.item(), hi.item()] == pytest.approx([1 - percentile / 100, percentile / 100], abs=1.5e-3)
