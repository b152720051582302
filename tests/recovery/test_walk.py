"""The walk over a network: its order, what a layer is shown, and weights that it leaves alone."""

import gc
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from layer_networks import on_grids, several, with_grids
from small_networks import SlowTwin, images, watched
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import Calibration, calibrate
from quant_sweep.graph import INPUT, Fusion, Network, QuantGraph, capture
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, Scheme
from quant_sweep.recovery import OnGrids
from quant_sweep.recovery.walk import Layer, channel_means, walk


@cache
def calibrated(make: Callable[[], nn.Module]) -> Calibration:
    """With 8 images, once for all tests."""
    torch.manual_seed(0)
    return calibrate(capture(make().eval(), images(2), Fusion.conv_bn_relu), [images(8)])


def grids_of(make: Callable[[], nn.Module], bits: int = 4, scheme: Scheme = AFFINE) -> tuple[QuantGraph, OnGrids]:
    calibration = calibrated(make)
    return calibration.graph, with_grids(calibration, bits, scheme, MinMax())


def unchanged(layer: Layer) -> tuple[Tensor, QParams]:
    return layer.weight, layer.grid


def smaller(layer: Layer) -> tuple[Tensor, QParams]:
    return 0.8 * layer.weight, layer.grid


class Late(nn.Module):
    """What alone reads a layer's output is written behind another layer."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(3, 4, 3), nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.a(x), self.b(x)
        a, b = F.relu(a), F.relu6(b)
        return self.head(torch.cat([b.mean((2, 3)), a.mean((2, 3))], 1))


class Pieces(nn.Module):
    """A list of tensors, and whole numbers, are kept between two layers."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(4, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        first, second = F.relu(self.a(x)).chunk(2, dim=1)
        place = (first - second).argmax(1, keepdim=True)
        y = torch.gather(first, 1, place) * second + torch.gather(second, 1, place)
        return self.b(y).mean((2, 3))


class Broadcast(nn.Module):
    """A layer whose output is added to every place of another's."""

    def __init__(self) -> None:
        super().__init__()
        self.whole, self.a = nn.Conv2d(3, 4, 16), nn.Conv2d(3, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.whole(x) + self.a(x)).mean((2, 3))


SYMMETRIC = Scheme(weight_per_channel=True, weight_narrow_range=True, activation_symmetric=True)
SUMS = {"depthwise.output": "relu.output", "grouped.output": "shortcut.output"}
ORDER = "stem depthwise shortcut grouped dilated up line head"


@pytest.mark.parametrize(
    ("make", "bits", "order", "added"),
    [
        (several, 4, ORDER, SUMS),
        (several, 8, ORDER, SUMS),
        (several, 10, ORDER, SUMS),
        (Late, 4, "a b head", {}),
        (Pieces, 4, "a b", {}),
        (Broadcast, 4, "whole a", {"a.output": "whole.output"}),
    ],
)
@pytest.mark.parametrize("scheme", [AFFINE, SYMMETRIC], ids=["affine", "symmetric"])
def test_a_layer_is_shown_what_it_reads_and_what_it_should_write(
    make: Callable[[], nn.Module], bits: int, order: str, added: Mapping[str, str], scheme: Scheme
) -> None:
    graph, quantized = grids_of(make, bits, scheme)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(layer: Layer) -> tuple[Tensor, QParams]:
        assert len(layer.inputs) == len(layer.targets) == 2
        seen[layer.name] = torch.cat(list(layer.inputs)), torch.cat(list(layer.targets))
        return unchanged(layer)

    made = walk(graph, quantized, [images(5), images(8)[5:]], note)
    twin = SlowTwin(made.graph, made.qparams)
    twin.run(images(8))
    wanted = Network(graph.graph).values(images(8), keep=lambda _: True)
    assert list(seen) == [f"{name}.output" for name in order.split()]
    for name, (inputs, targets) in seen.items():
        node = made.graph.graph.node[name]
        torch.testing.assert_close(inputs, twin._read(node.inputs[0], name))
        target = wanted[name]
        if name in added:
            add = next(reader for reader in made.graph.graph.readers[name])
            target = target + wanted[added[name]] - twin._read(added[name], add.name)
        torch.testing.assert_close(targets, target, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("bits", "in_bytes"), [(3, True), (8, True), (9, False)])
def test_what_layers_read_is_kept_as_codes_that_fit_into_a_byte(bits: int, in_bytes: bool) -> None:
    graph, quantized = grids_of(several, bits)
    kept: list[int] = []

    def note(layer: Layer) -> tuple[Tensor, QParams]:
        if layer.name == "shortcut.output":
            sizes = [batch.shape for batch in layer.inputs]
            assert sum(size.numel() for size in sizes) == 8 * 6 * 16 * 16
            tensors = [one for one in gc.get_objects() if type(one) is Tensor]
            kept.append(sum(one.nbytes for one in tensors if one.dtype == torch.uint8 and one.shape in sizes))
        return unchanged(layer)

    walk(graph, quantized, [images(8)[:5], images(8)[5:]], note)
    assert kept == [8 * 6 * 16 * 16 if in_bytes else 0]


def test_images_lie_with_their_channels_side_by_side() -> None:
    """As convolutions read them fastest, however they came."""
    graph, quantized = grids_of(several)

    def note(layer: Layer) -> tuple[Tensor, QParams]:
        if layer.name == "stem.output":
            assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in layer.inputs)
        return unchanged(layer)

    walk(graph, quantized, [images(5), images(8)[5:]], note)


def test_values_are_let_go_when_all_that_read_them_are_computed() -> None:
    graph, quantized = grids_of(several)
    read: dict[str, list[weakref.ref[Tensor]]] = {node.name: [] for node in graph.graph.nodes}
    alive: dict[str, set[str]] = {}

    def show(name: str, inputs: tuple[Tensor, ...]) -> None:
        read[name].append(weakref.ref(inputs[0]))

    def note(layer: Layer) -> tuple[Tensor, QParams]:
        alive[layer.name] = {name for name, values in read.items() if any(value() is not None for value in values)}
        return unchanged(layer)

    original = replace(graph, graph=watched(graph.graph, list(read), show))
    walk(original, quantized, list(images(8).split(3)), note)
    assert all(len(values) == 3 for values in read.values())
    wanted = {f"{name}.output": set[str]() for name in ORDER.split()}
    wanted["shortcut.output"] = {"shortcut.output"}  # reads what the grouped layer reads too
    assert {name: values - {"stem.output"} for name, values in alive.items()} == wanted  # but for the images


def targets_of(factor: float, sizes: Sequence[int] = (5, 3)) -> dict[str, Tensor]:
    """What the layers of a network should write, all its outputs being `factor` times as large."""
    graph, quantized = grids_of(several)
    seen: dict[str, Tensor] = {}

    def scaled(named: QuantGraph) -> QuantGraph:
        constants = {n: v * factor if n.startswith("stem") else v for n, v in named.graph.constants.items()}
        return replace(named, graph=replace(named.graph, constants=constants))

    def note(layer: Layer) -> tuple[Tensor, QParams]:
        seen[layer.name] = torch.cat(list(layer.targets))
        return unchanged(layer)

    walk(scaled(graph), replace(quantized, graph=scaled(quantized.graph)), images(8).split(list(sizes)), note)
    return seen


@pytest.mark.parametrize("factor", [1.0, 1e6, 1e-7])
def test_large_tensors_are_kept_in_half_precision_where_it_has_their_values(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    wanted = targets_of(factor)
    monkeypatch.setattr("quant_sweep.recovery.walk._LARGE", 1)
    halved = targets_of(factor)
    for name, target in wanted.items():
        assert halved[name].dtype == torch.float32
        size = float(target.abs().max())
        # Of itself or what its sum adds, and of the one it was computed from.
        torch.testing.assert_close(halved[name], target, rtol=0, atol=2.0**-8 * size)
    stem = torch.equal(halved["stem.output"], wanted["stem.output"])
    assert stem == (factor != 1.0), "the first layer's are kept as they are where half precision does not have them"


def test_small_tensors_are_kept_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = targets_of(1.0)
    largest = max(target.nbytes for target in wanted.values())
    for limit, same in ((3 * largest, True), (1, False)):
        monkeypatch.setattr("quant_sweep.recovery.walk._LARGE", limit)
        found = targets_of(1.0)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted) == same


@pytest.mark.parametrize("sizes", [[8], [1] * 8], ids=str)
def test_a_tensor_is_large_by_its_bytes_over_all_inputs(monkeypatch: pytest.MonkeyPatch, sizes: list[int]) -> None:
    wanted = targets_of(1.0, sizes)["stem.output"]
    for limit, same in ((wanted.nbytes + 1, True), (wanted.nbytes, False)):
        monkeypatch.setattr("quant_sweep.recovery.walk._LARGE", limit)
        assert torch.equal(targets_of(1.0, sizes)["stem.output"], wanted) == same


def test_what_is_no_float32_tensor_is_kept_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, quantized = grids_of(Pieces)
    outputs = []
    for limit in (2**27, 1):
        monkeypatch.setattr("quant_sweep.recovery.walk._LARGE", limit)
        made = walk(graph, quantized, [images(8)], unchanged)
        outputs.append(SlowTwin(made.graph, made.qparams).run(images(8)))
    torch.testing.assert_close(*outputs, rtol=0, atol=1e-2)


def test_progress_knows_how_many_nodes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, quantized = grids_of(several)
    told: list[tuple[str, int | None]] = []
    monkeypatch.setattr("quant_sweep.recovery.walk.tracked", lambda nodes, *what: told.append(what) or nodes)
    walk(graph, quantized, [images(8)], unchanged)
    assert told == [("recovery", len(graph.graph.nodes))]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_steps_follow_the_tensors(power: float) -> None:
    """All that the network computes; they become smaller where weights are."""
    graph, quantized = grids_of(several)
    made = walk(graph, quantized, [images(8)[:3], images(8)[3:]], smaller, power)
    twin = SlowTwin(made.graph, made.qparams)
    twin.run(images(8))
    wanted = Network(graph.graph).values(images(8), keep=lambda _: True)
    names = [q.name for q in graph.activations]
    assert len(names) > 5
    for name in names:
        ratio = 1.0 if name == INPUT else float(twin.values[name].double().norm() / wanted[name].double().norm())
        assert (name == INPUT) == (ratio == 1.0)
        before, after = quantized.qparams[name], made.qparams[name]
        assert float(after.scale / before.scale) == pytest.approx(ratio**power, rel=1e-4), name
        assert torch.equal(after.zero_point, before.zero_point)


class Homogeneous(nn.Module):
    """Its values are as large as its inputs: it has no biases."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(4, 3, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.b(F.relu(self.a(x))).mean((2, 3))


def homogeneous(x: Tensor) -> tuple[QuantGraph, OnGrids]:
    torch.manual_seed(0)
    return on_grids(Homogeneous().eval(), x, bits=8)


@pytest.mark.parametrize("size", [1e-6, 1e6])
def test_steps_follow_tensors_of_any_size(size: float) -> None:
    factors = []
    for x in (images(8), size * images(8)):
        graph, quantized = homogeneous(x)
        made = walk(graph, quantized, [x], smaller, 1.0)
        factors.append(float(made.qparams["relu.output"].scale / quantized.qparams["relu.output"].scale))
    assert factors[0] < 0.99
    assert factors[1] == pytest.approx(factors[0], rel=1e-3)


@pytest.mark.parametrize(
    ("sizes", "measured"), [([5, 3], 5), ([4, 1, 3], 5), ([4, 2, 2], 6), ([2, 2, 2, 2], 6), ([8], 8), ([1] * 8, 5)]
)
def test_steps_follow_as_many_of_the_first_inputs_as_tell(
    monkeypatch: pytest.MonkeyPatch, sizes: list[int], measured: int
) -> None:
    """5 here; all, if there are fewer. Each input is larger than those before it."""
    x = images(8) * torch.linspace(0.3, 4, 8).reshape(-1, 1, 1, 1)
    graph, quantized = homogeneous(x)
    for first, counted in ((5, measured), (9, 8)):
        monkeypatch.setattr("quant_sweep.recovery.walk._MEASURED", first)
        made = walk(graph, quantized, x.split(sizes), smaller, 1.0)
        twin = SlowTwin(made.graph, made.qparams)
        twin.run(x)
        wanted = Network(graph.graph).values(x, keep=lambda _: True)
        here, in_float = (values["relu.output"][:counted].double().norm() for values in (twin.values, wanted))
        factor = made.qparams["relu.output"].scale / quantized.qparams["relu.output"].scale
        assert float(factor) == pytest.approx(float(here / in_float), rel=1e-5)


def test_the_step_of_a_tensor_of_zeros_stays() -> None:
    """Behind a ReLU that lets nothing through, in float because all is just below 0, or here because weights are 0, and
    with them all is the mean, which may be below 0."""
    graph, quantized = grids_of(several)
    node = graph.graph.node["stem.output"]
    highest = Network(graph.graph).values(images(8), keep=lambda _: True)[node.name].amax((0, 2, 3))

    def shifted(highest_becomes: float) -> QuantGraph:
        bias = graph.graph.constants[node.inputs[2]] - highest + highest_becomes
        return replace(graph, graph=replace(graph.graph, constants={**graph.graph.constants, node.inputs[2]: bias}))

    for original, factor in ((shifted(-1e-3), 1.0), (shifted(0.1), 0.0), (graph, 0.0)):
        made = walk(original, quantized, [images(8)], lambda layer, f=factor: (f * layer.weight, layer.grid), 1.0)
        scales = torch.stack([made.qparams[q.name].scale for q in graph.activations])
        assert bool((scales.isfinite() & (scales > 0)).all())


class Shared(nn.Module):
    """One layer called twice, another whose bias another layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.one, self.other = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.other.bias = None

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.twice(x))))
        return F.conv2d(F.relu(self.one(x)), self.other.weight, self.one.bias, padding=1).mean((2, 3))


def test_shared_weights_stay_and_shared_biases_become_two() -> None:
    torch.manual_seed(0)
    graph, quantized = on_grids(Shared().eval(), images(8), bits=4)
    seen: list[str] = []
    made = walk(graph, quantized, [images(8)], lambda layer: seen.append(layer.name) or unchanged(layer))
    assert seen == ["one.output", "conv2d.output"]
    nodes = made.graph.graph.node
    assert [nodes[name].inputs[2] for name in seen] == ["one.recovered_bias", "other.bias"]
    for name in ("twice.weight", "twice.bias"):
        assert torch.equal(made.graph.graph.constants[name], graph.graph.constants[name])
    twin = SlowTwin(made.graph, made.qparams)
    found, wanted = twin.run(images(8)).mean(dim=0), Network(graph.graph)(images(8)).mean(dim=0)
    torch.testing.assert_close(found, wanted)


def test_a_layer_without_bias_gets_one_and_others_keep_theirs() -> None:
    graph, quantized = grids_of(several)
    made = walk(graph, quantized, [images(8)], unchanged)
    for name in ORDER.split():
        assert made.graph.graph.node[f"{name}.output"].inputs[1:] == (f"{name}.weight", f"{name}.bias")
    assert made.graph.graph.constants.keys() == graph.graph.constants.keys() | {"shortcut.bias"}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_walk_computes_where_its_inputs_are_and_its_result_is_on_the_cpu() -> None:
    graph, quantized = grids_of(several, 8)
    found, wanted = (walk(graph, quantized, [x[:5], x[5:]], smaller, 0.5) for x in (images(8).cuda(), images(8)))
    for name, value in wanted.graph.graph.constants.items():
        torch.testing.assert_close(found.graph.graph.constants[name], value, rtol=1e-2, atol=1e-2)
    for name, grid in wanted.qparams.items():
        torch.testing.assert_close(found.qparams[name].scale, grid.scale, rtol=1e-2, atol=0)


def test_channel_means() -> None:
    batches = [torch.randn(2, 3, 4), torch.randn(5, 3, 4)]
    torch.testing.assert_close(channel_means(batches, 1), torch.cat(batches).double().mean(dim=(0, 2)))
    torch.testing.assert_close(channel_means(batches, 2), torch.cat(batches).double().mean(dim=(0, 1)))
