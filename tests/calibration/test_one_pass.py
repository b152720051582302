"""One float pass: its summaries are those of plain hooks, and its grids those of the observers."""

import functools
import itertools
import resource
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import captured, cifar_resnet20, images, tiny
from torch import Tensor, nn

from quant_sweep import observers
from quant_sweep.arithmetic.affine import qparams_from_range
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.calibration.one_pass import (
    Calibration,
    _images_at_once,
    calibrate,
    choose_qparams,
    choose_weight_qparams,
    observe,
    summarize_weight,
)
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, capture, insert_at_quantizers
from quant_sweep.histograms.histogram import DEFAULT_BINS, Histogram
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import MinMax, Observer
from quant_sweep.quantization.quantize import quantize
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs
from quant_sweep.runtime.threads import FEWEST_IMAGES
from torture import forked

OBSERVERS = [getattr(observers, name) for name in observers.__all__ if name != "Observer"]


@pytest.mark.parametrize("fusion", Fusion)
def test_summaries_are_what_plain_hooks_see(fusion: Fusion) -> None:
    """The model's own forward, layer by layer: what conv1, linear and the first ReLU receive needs no graph of ours."""
    model = cifar_resnet20()
    batches = [images(4, seed=1), images(3, seed=2)]
    received: dict[str, list[Tensor]] = {}
    for name in ("conv1", "layer2.0.conv1", "linear"):
        module = model.get_submodule(name)
        module.register_forward_pre_hook(lambda _, args, n=name: received.setdefault(n, []).append(args[0].clone()))
    with torch.no_grad():
        for batch in batches:
            model(batch)
    graph = captured(cifar_resnet20, fusion)
    summaries = calibrate(graph, batches).summaries
    assert summaries.keys() == {q.name for q in graph.activations}
    assert_summarizes(summaries["input"], received["conv1"], exact=True)
    before = {reader: q.name for q in graph.activations for reader in q.readers}
    assert_summarizes(
        summaries[before["layer2.0.conv1.output"]], received["layer2.0.conv1"], exact=fusion is Fusion.none
    )


def assert_summarizes(summary: Summary, batches: list[Tensor], exact: bool) -> None:
    """exact: BatchNorm is not folded, so that the values are the very same ones."""
    total = torch.cat([batch.flatten() for batch in batches])
    tolerance = 0.0 if exact else 1e-4
    assert float(summary.total.lo) == pytest.approx(float(total.min()), abs=tolerance)
    assert float(summary.total.hi) == pytest.approx(float(total.max()), abs=tolerance)
    assert int(summary.total.total) == total.numel()
    assert [int(batch.total) for batch in summary.recent] == [batch.numel() for batch in batches]
    for kept, batch in zip(summary.recent, batches, strict=True):
        assert float(kept.lo) == pytest.approx(float(batch.min()), abs=tolerance)
        assert float(kept.hi) == pytest.approx(float(batch.max()), abs=tolerance)
    if exact:
        edges = summary.total.edges[0]
        inside = [int(((total >= lo) & (total < hi)).sum()) for lo, hi in itertools.pairwise(edges[::512].tolist())]
        assert summary.total.counts[0].reshape(-1, 512).sum(dim=1).tolist() == inside


def test_a_batch_in_parts_is_one_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """With no cache to speak of, 40 images are taken apart into 16, 16 and 8; by one thread or by three alike."""
    monkeypatch.setattr("quant_sweep.calibration.one_pass._CACHED_BYTES", 1)
    graph, batches = captured(tiny, Fusion.conv_bn_relu), [images(40, seed=1), images(17, seed=2)]
    received: dict[str, list[Histogram]] = {}

    def counting(name: str) -> Callable[[Tensor], Tensor]:
        def count(x: Tensor) -> Tensor:
            received.setdefault(name, []).append(Histogram.of(x.reshape(1, -1)))
            return x

        return count

    network = insert_at_quantizers(graph, {q.name: counting(q.name) for q in graph.activations})
    with torch.no_grad():
        for part in [part for batch in batches for part in batch.split(16)]:
            network(part)
    before = torch.get_num_threads()
    for threads in (1, 3):
        torch.set_num_threads(threads)
        try:
            summaries = calibrate(graph, batches).summaries
        finally:
            torch.set_num_threads(before)
        for name, parts in received.items():
            assert [len(part) for part in (parts[:3], parts[3:])] == [3, 2]
            for kept, expected in zip(summaries[name].recent, (parts[:3], parts[3:]), strict=True):
                together = functools.reduce(Histogram.merge, expected)
                for field in ("lo", "hi", "exponent", "first", "counts"):
                    assert torch.equal(getattr(kept, field), getattr(together, field)), (threads, name, field)


def test_the_cache_decides_how_many_images_are_taken_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of however many: not the first batch's; a GPU takes the whole."""
    monkeypatch.setattr("quant_sweep.calibration.one_pass._CACHED_BYTES", 1)
    graph = captured(tiny, Fusion.conv_bn_relu)
    assert [_images_at_once(graph, images(n)) for n in (1, 17, 40)] == [FEWEST_IMAGES] * 3
    assert [_images_at_once(graph, images(n).to("meta")) for n in (1, 40)] == [1, 40]
    assert _images_at_once(graph, images(0)) == 1


def test_a_weights_channels_have_fewer_bins_than_an_activation() -> None:
    """Thousands of channels of few values each."""
    assert summarize_weight(torch.ones(2, 3), 0).total.bins < DEFAULT_BINS


@settings(max_examples=10)
@given(order=st.permutations(range(4)))
def test_order_of_batches_does_not_change_totals(order: list[int]) -> None:
    graph = captured(tiny, Fusion.conv_bn_relu)
    batches = [images(2, seed=seed) * (seed + 1) for seed in range(4)]
    straight = calibrate(graph, batches).summaries
    shuffled = calibrate(graph, [batches[i] for i in order]).summaries
    for name, summary in straight.items():
        total, other = summary.total, shuffled[name].total
        for field in ("lo", "hi", "exponent", "first", "counts"):
            assert torch.equal(getattr(total, field), getattr(other, field)), (name, field)


def test_the_graph_is_not_changed() -> None:
    graph = captured(tiny, Fusion.none)
    described, state = graph.graph.described(), {n: v.clone() for n, v in graph.graph.constants.items()}
    calibrate(graph, [images(2)])
    assert graph.graph.described() == described
    assert graph.graph.constants.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in graph.graph.constants.items())


def test_no_batch() -> None:
    with pytest.raises(InputError, match="no batch"):
        calibrate(captured(tiny, Fusion.bn), [])


def test_empty_batch() -> None:
    with pytest.raises(InputError, match=r"input: .*empty"):
        calibrate(captured(tiny, Fusion.bn), [images(0)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_input_that_is_not_finite_is_named(bad: float) -> None:
    batch = images(2)
    batch[1, 2, 3, 4] = bad
    with pytest.raises(InputError, match=r"^input: .*NaN or infinity"):
        calibrate(captured(tiny, Fusion.bn), [images(2), batch])


class Inner(nn.Module):
    """NaN appears between two layers, as the logarithm of a negative number; not for images of zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 2, 3), nn.Conv2d(2, 2, 3)
        nn.init.ones_(self.first.bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(torch.log(self.first(x)))


def test_inner_tensor_that_is_not_finite_is_named() -> None:
    with pytest.raises(InputError, match=r"^log\.output: .*NaN"):
        calibrate(capture(Inner(), torch.zeros(2, 3, 16, 16), Fusion.bn), [images(2)])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weight_that_is_not_finite_is_named(bad: float) -> None:
    graph = captured(tiny, Fusion.none)
    graph.graph.constants["conv2.weight"][0, 0, 0, 0] = bad
    with pytest.raises(InputError, match=r"^conv2\.weight: .*NaN or infinity"):
        choose_weight_qparams(graph, assign_specs(graph, AFFINE, BitWidths(8, 8, {})), MinMax())


def test_weight_grids_are_those_of_each_channel() -> None:
    graph = captured(tiny, Fusion.bn)
    specs = assign_specs(graph, AFFINE, BitWidths(4, 8, {}))
    for name, grid in choose_weight_qparams(graph, specs, MinMax()).items():
        rows = graph.graph.constants[name].flatten(1)
        wanted = qparams_from_range(rows.amin(dim=1), rows.amax(dim=1), specs[name])
        assert torch.equal(grid.scale, wanted.scale)
        assert torch.equal(grid.zero_point, wanted.zero_point)


def test_all_grids_are_chosen_by_the_right_observer() -> None:
    class Half(Observer):
        def range(self, summary: Summary, spec: QuantSpec) -> tuple[Tensor, Tensor]:  # noqa: ARG002
            return summary.total.lo / 2, summary.total.hi / 2

    graph = captured(tiny, Fusion.conv_bn_relu)
    calibration = calibrate(graph, [images(4)])
    specs = assign_specs(graph, AFFINE, BitWidths(8, 8, {}))
    qparams = choose_qparams(calibration, specs, Half(), MinMax())
    assert qparams.keys() == set(graph.names)
    for name, summary in calibration.summaries.items():
        assert torch.equal(qparams[name].scale, observe(summary, specs[name], Half()).scale)
        assert float(qparams[name].scale) == pytest.approx(float(observe(summary, specs[name], MinMax()).scale) / 2)
    assert float(qparams["linear.weight"].hi.max()) == pytest.approx(
        float(graph.graph.constants["linear.weight"].abs().max())
    )


@functools.cache
def constant(value: float) -> tuple[Calibration, Tensor, Tensor]:
    """A network of one value, calibrated on images of one value; these, and what it makes of them."""
    model = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2 * 16, 3)).eval()
    batch = torch.full((4, 3, 4, 4), value)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5 if value else 0.0)
        return calibrate(capture(model, batch, Fusion.none), [batch]), batch, model(batch)


@pytest.mark.parametrize("observer", OBSERVERS, ids=lambda observer: observer.__name__)
@pytest.mark.parametrize("value", [0.0, 3.0, -0.25])
@pytest.mark.parametrize("bits", [2, 8])
def test_constant_activations_go_through_the_whole(observer: type[Observer], value: float, bits: int) -> None:
    """Every observer, every tensor constant: what comes out is finite, and 0 stays 0."""
    calibration, batch, original = constant(value)
    with torch.no_grad():
        logits = quantize(calibration, bits=bits, observer=observer()).network(batch)
    assert bool(logits.isfinite().all())
    assert float((logits - original).abs().max()) <= 1e-5 + 0.05 * float(original.abs().max())


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs Linux")
def test_memory_does_not_grow_with_the_images(tmp_path: Path) -> None:
    """It did, by 25 MB a batch: see `Collector`."""
    graph = captured(cifar_resnet20, Fusion.conv_bn_relu, 32)

    def batches() -> Iterator[Tensor]:
        for _ in range(12):
            yield torch.randn(32, 3, 32, 32)
            print(int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() // 2**20, flush=True)

    child = forked.start(lambda: calibrate(graph, batches()), tmp_path, tmp_path / "log")
    assert child.wait() == 0, child.log.read_text()
    resident = [int(line) for line in child.log.read_text().split()]
    assert len(resident) == 12
    assert resident[-1] - resident[4] < 60
