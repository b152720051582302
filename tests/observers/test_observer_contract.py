"""What every observer must keep, whoever wrote it: the observers are found in `conf/observer`, not listed here."""

from pathlib import Path

import pytest
import torch
from configured import concrete_classes
from distributions import SYMMETRIC, spec, summarize, tensor
from hydra.utils import instantiate
from omegaconf import OmegaConf
from torch import Tensor

import quant_sweep.observers
from quant_sweep.arithmetic.affine import qparams_from_range
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Summary, summarize_channels
from quant_sweep.observers import Observer

CONFIGS = sorted((Path(__file__).parents[2] / "conf" / "observer").glob("*.yaml"))
DISTRIBUTIONS = ("relu", "gaussian", "heavy", "constant", "zeros", "one value", "tiny", "negative", "one outlier")
BITS = (2, 3, 4, 8, 16)
GRIDS = [spec(2), spec(2, SYMMETRIC), spec(3), spec(4, SYMMETRIC), spec(8), spec(16, SYMMETRIC)]
FEW_GRIDS = [spec(3), spec(8, SYMMETRIC)]


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda path: path.stem)
def observer(request: pytest.FixtureRequest) -> Observer:
    config = OmegaConf.load(request.param)
    assert config.pop("name") == request.param.stem
    found = instantiate(config)
    assert isinstance(found, Observer)
    return found


@pytest.fixture(params=DISTRIBUTIONS)
def values(request: pytest.FixtureRequest) -> Tensor:
    return tensor(request.param)


def batches(x: Tensor) -> tuple[Tensor, ...]:
    return x.split(-(-len(x) // 3))


def test_every_observer_has_a_config() -> None:
    configured = {OmegaConf.load(path)["_target_"].rpartition(".")[2] for path in CONFIGS}
    assert configured == {cls.__name__ for cls in concrete_classes(quant_sweep.observers, Observer)}


def test_answers_are_ranges_within_what_was_seen(observer: Observer, values: Tensor) -> None:
    summary = summarize(*batches(values))
    seen_lo, seen_hi = min(values.min().item(), 0.0), max(values.max().item(), 0.0)
    for grid in GRIDS:
        lo, hi = observer.range(summary, grid)
        for end in (lo, hi):
            assert end.dtype == torch.float32
            assert end.shape == (1,)
            assert end.isfinite().all()
        assert lo <= hi
        low, high = (-max(-seen_lo, seen_hi), max(-seen_lo, seen_hi)) if grid.symmetric else (seen_lo, seen_hi)
        slack = 1e-6 * (high - low)  # a running average rounds
        assert low - slack <= lo.item()
        assert hi.item() <= high + slack
        qparams_from_range(lo[0], hi[0], grid)  # and a grid can be laid over it


def test_same_summary_same_answer(observer: Observer, values: Tensor) -> None:
    one, other = summarize(*batches(values)), summarize(*batches(values.clone()))
    for grid in FEW_GRIDS:
        assert observer.range(one, grid) == observer.range(other, grid)


def test_scaling_the_data_by_a_power_of_two_scales_the_range(observer: Observer, values: Tensor) -> None:
    """Exactly, since bins are powers of two wide; but not for subnormal values, which lose bits on the way."""
    if values.abs().max() < 1e-30:
        return
    for factor, grid in zip((8.0, 2.0**-5), FEW_GRIDS, strict=True):
        plain, scaled = summarize(*batches(values)), summarize(*batches(values * factor))
        for a, b in zip(observer.range(plain, grid), observer.range(scaled, grid), strict=True):
            assert (a * factor).item() == b.item()


def test_channels_at_once_equal_each_alone(observer: Observer) -> None:
    rows = torch.stack([tensor(name, 500, seed) for seed, name in enumerate(DISTRIBUTIONS) if name != "one value"])
    mirrored = QuantSpec(4, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
    for grid in (mirrored, QuantSpec(3, channel_axis=0)):
        lo, hi = observer.range(summarize_channels(rows, 0, bins=1024), grid)
        assert lo.shape == hi.shape == (len(rows),)
        for c, row in enumerate(rows):
            alone = observer.range(summarize_channels(row, None, bins=1024), grid)
            assert (lo[c], hi[c]) == (alone[0][0], alone[1][0])


@pytest.mark.parametrize("n", [1, 2, 9])
def test_few_values(observer: Observer, n: int) -> None:
    """A depthwise 3x3 kernel has 9 weights a channel."""
    for seed in range(4):
        summary = summarize_channels(tensor("gaussian", n, seed), None, bins=1024)
        for grid in FEW_GRIDS:
            lo, hi = observer.range(summary, grid)
            assert lo <= hi
            assert grid.symmetric or (summary.total.lo <= hi and lo <= summary.total.hi), "holds none of the values"


@pytest.mark.parametrize("bins", [16, 4096])
def test_any_constant(observer: Observer, bins: int) -> None:
    """Wherever in its bin, and in whichever bin, the one value lies."""
    constants = torch.tensor([1.0, 1 + 2**-23, 1 + 2**-4, 1.3, 2 - 2**-23])
    for value in torch.cat([constants, -constants]):
        histogram = Histogram.of(value.expand(1, 7), bins)
        for grid in (spec(2), spec(8, SYMMETRIC)):
            lo, hi = observer.range(Summary.of_one_batch(histogram), grid)
            assert lo <= hi


def test_answers_are_float32_whatever_torchs_default_is(observer: Observer) -> None:
    """As a program may have set it that takes this one as a library."""
    summary = summarize(*batches(tensor("gaussian")))
    plain = observer.range(summary, spec(4))
    torch.set_default_dtype(torch.float64)
    try:
        found = observer.range(summary, spec(4))
    finally:
        torch.set_default_dtype(torch.float32)
    assert found == plain
    assert [end.dtype for end in found + plain] == [torch.float32] * 4
