"""Reconstruction against a slow twin in float64, for every kind of layer; and in whole networks, on every engine."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from layer_networks import LAYERS, inputs_of, on_grids, rounded_weight, several
from small_networks import SlowTwin, images, tiny
from torch import Tensor

from quant_sweep.arithmetic.affine import fake_quantize, quantize
from quant_sweep.engines import Int8, Integer, Simulate
from quant_sweep.errors import InputError
from quant_sweep.evaluation.agreement import compare_with_simulation
from quant_sweep.graph import Fusion, Network, Node, QuantGraph, weights_on_grid
from quant_sweep.graph.fold import output_axis
from quant_sweep.quantization.scheme import AFFINE, Scheme
from quant_sweep.recovery import Bias, OnGrids, Reconstruct
from quant_sweep.recovery.order import added_to

PER_TENSOR = Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)


# -- one layer --


def columns(node: Node, x: Tensor, weight: Tensor, channel: int) -> Tensor:
    """What each weight of an output channel adds to it, were it 1: float64 (places, k), for all places in order."""
    found = []
    for k in range(weight[channel].numel()):
        one = torch.zeros_like(weight)
        one[channel].view(-1)[k] = 1
        made = node.operation(x, one).transpose(0, output_axis(node))[channel]
        found.append(made.flatten())
    return torch.stack(found, dim=1)


@pytest.fixture(params=[1, 3], ids=["1 thread", "3 threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scheme", [AFFINE, PER_TENSOR], ids=["per channel", "per tensor"])
def test_a_layer_is_that_of_the_slow_twin(kind: str, scheme: Scheme) -> None:
    """The weights aimed at are those of a least-squares solver, no code can be bettered alone, nor the scale, and the
    bias is right in the mean."""
    torch.manual_seed(0)
    x = inputs_of(kind, 40)
    original, quantized = on_grids(LAYERS[kind](), x, bits=3, scheme=scheme)
    method = Reconstruct(rows=100_000, sweeps=30)
    made = method.recover(original, quantized, [x[:25], x[25:]])
    (node,) = made.graph.graph.nodes
    name = node.inputs[1]
    weight, grid = original.graph.constants[name].double(), made.qparams[name]
    seen = fake_quantize(x, quantized.qparams["input"]).double()
    wanted = Network(original.graph)(x).double()
    codes = quantize(made.graph.graph.constants[name], grid)
    along, size = list[Tensor](), list[Tensor]()
    for channel in range(len(weight)):
        a = columns(node, seen, weight, channel)
        t = wanted.transpose(0, output_axis(node))[channel].flatten()
        n, k = a.shape
        a, t = a - a.mean(dim=0), t - t.mean()
        mean_square = _mean_square(node, seen, weight, channel)
        damp = torch.eye(k, dtype=torch.float64) * (method.damp * mean_square * n) ** 0.5
        w = weight[channel].flatten()
        aim = torch.linalg.lstsq(torch.cat([a, damp]), torch.cat([t, damp @ w])[:, None]).solution[:, 0]
        scale = float(grid.scale[channel] if grid.scale.dim() else grid.scale)
        q = codes[channel].flatten().double()
        near = made.graph.graph.constants[name][channel].flatten().double()
        inside = ((aim / scale - q).abs() < 0.49) & (grid.spec.qmin <= q) & (q <= grid.spec.qmax)
        torch.testing.assert_close(near[inside], aim[inside], rtol=1e-3, atol=1e-4)
        h = (a.T @ a + damp @ damp) / n
        along.append(q @ h @ aim)
        size.append(q @ h @ q)
        cost = _cost(aim, h, q * scale)
        for i in range(k):
            for code in range(grid.spec.qmin, grid.spec.qmax + 1):
                other = q.clone()
                other[i] = code
                assert cost <= _cost(aim, h, other * scale) * (1 + 1e-4) + 1e-9
    best = torch.stack(along) / torch.stack(size) if grid.scale.dim() else sum(along) / sum(size)
    torch.testing.assert_close(grid.scale.double(), best, rtol=1e-3, atol=0)
    found = Network(weights_on_grid(made.graph, made.qparams))(seen.float())
    axis = output_axis(node)
    means = [y.transpose(0, axis).flatten(1).double().mean(dim=1) for y in (found, wanted)]
    torch.testing.assert_close(*means, rtol=0, atol=1e-5)


def _mean_square(node: Node, x: Tensor, weight: Tensor, channel: int) -> float:
    """Of the centred inputs of a channel's weights, their mean."""
    return float(columns(node, x, weight, channel).var(dim=0, correction=0).mean())


def _cost(aim: Tensor, h: Tensor, w: Tensor) -> float:
    return float((aim - w) @ h @ (aim - w))


def test_outputs_are_nearer_than_those_of_rounding() -> None:
    for kind in LAYERS:
        torch.manual_seed(1)
        x = inputs_of(kind, 60)
        original, quantized = on_grids(LAYERS[kind](), x, bits=3)
        made = Reconstruct(rows=100_000).recover(original, quantized, [x])
        biased = Bias().recover(original, quantized, [x])
        wanted = Network(original.graph)(x)
        off = [
            float((SlowTwin(state.graph, state.qparams).run(x) - wanted).norm()) for state in (made, biased, quantized)
        ]
        assert off[0] < off[1] <= off[2] * 1.0001, kind


# -- networks --


@pytest.fixture(scope="module", params=[*Fusion], ids=lambda fusion: fusion.value)
def network(request: pytest.FixtureRequest) -> tuple[QuantGraph, OnGrids]:
    return on_grids(several(), images(24), bits=4, fusion=request.param)


def test_means_of_every_layer_are_right(network: tuple[QuantGraph, OnGrids]) -> None:
    """Those of the sum, where a layer's output is only added to something."""
    original, quantized = network
    for method in (Bias(), Reconstruct(rows=500, sweeps=1)):
        made = method.recover(original, quantized, [images(16), images(24)[16:]])
        twin = SlowTwin(made.graph, made.qparams)
        twin.run(images(24))
        wanted = Network(original.graph).values(images(24), keep=lambda _: True)
        ends = {}
        for q in made.graph.weights:
            for name in q.layers:
                node = made.graph.graph.node[name]
                add = added_to(made.graph.graph, node)
                if add is None or original.fusion is not Fusion.bn:  # which rounds what is added
                    ends[(add or node).name] = output_axis(node)
        assert len(ends) >= 5
        for name, axis in ends.items():
            means = [y.transpose(0, axis).flatten(1).mean(dim=1) for y in (twin.values[name], wanted[name])]
            torch.testing.assert_close(*means, rtol=1e-4, atol=1e-4)


def test_only_weights_and_biases_are_new(network: tuple[QuantGraph, OnGrids]) -> None:
    original, quantized = network
    before = {name: value.clone() for name, value in original.graph.constants.items()}
    made = Reconstruct(rows=500, sweeps=1, rescale=0).recover(original, quantized, [images(24)])
    assert all(torch.equal(value, before[name]) for name, value in original.graph.constants.items())
    assert [node.name for node in made.graph.graph.nodes] == [node.name for node in original.graph.nodes]
    assert [node.operation for node in made.graph.graph.nodes] == [node.operation for node in original.graph.nodes]
    weights = {q.name for q in original.weights}
    for name, grid in made.qparams.items():
        assert grid.spec == quantized.qparams[name].spec
        if name not in weights:
            assert grid is quantized.qparams[name] or torch.equal(grid.scale, quantized.qparams[name].scale)
    biases = {node.inputs[2] for node in made.graph.graph.nodes if node.inputs[1:2] and node.inputs[1] in weights}
    changed = {
        name
        for name, value in made.graph.graph.constants.items()
        if name not in before or not torch.equal(value, before[name])
    }
    assert changed <= weights | biases
    assert {value.dtype for value in made.graph.graph.constants.values()} == {torch.float32}


@pytest.mark.parametrize("rescale", [0.0, 0.5, 1.0])
def test_steps_of_activations_follow_the_tensors(rescale: float) -> None:
    original, quantized = on_grids(tiny(), images(24), bits=3)
    made = Reconstruct(rows=500, sweeps=1, rescale=rescale).recover(original, quantized, [images(24)])
    twin = SlowTwin(made.graph, made.qparams)
    twin.run(images(24))
    wanted = Network(original.graph).values(images(24), keep=lambda _: True)
    names = [q.name for q in original.activations if q.name != "input"]
    ratios = {name: float(twin.values[name].double().norm() / wanted[name].double().norm()) for name in names}
    assert min(ratios.values()) < 0.99
    for name, ratio in ratios.items():
        factor = made.qparams[name].scale / quantized.qparams[name].scale
        assert float(factor) == pytest.approx(ratio**rescale, rel=1e-3)


def test_again_is_the_same(network: tuple[QuantGraph, OnGrids]) -> None:
    original, quantized = network
    one, other = (Reconstruct(rows=200, sweeps=1).recover(original, quantized, [images(24)]) for _ in range(2))
    for name, value in one.graph.graph.constants.items():
        assert torch.equal(value, other.graph.graph.constants[name])
    different = Reconstruct(rows=200, sweeps=1, seed=1).recover(original, quantized, [images(24)])
    assert any(not torch.equal(v, different.graph.graph.constants[n]) for n, v in one.graph.graph.constants.items())


@pytest.mark.parametrize("make", [tiny, several])
def test_engines_agree_on_recovered_codes(make, exact_int8: int) -> None:
    original, quantized = on_grids(make(), images(24), bits=min(4, exact_int8))
    made = Reconstruct(rows=500).recover(original, quantized, [images(24)])
    graph = replace(made.graph, graph=weights_on_grid(made.graph, made.qparams))
    for q in graph.weights:  # what lies on its grid stays there
        again = fake_quantize(graph.graph.constants[q.name], made.qparams[q.name])
        assert torch.equal(again, graph.graph.constants[q.name])
        assert torch.equal(again, rounded_weight(made, q.name))
    test = images(16, seed=3)
    for engine in (Int8(), Integer()):
        agreement = compare_with_simulation(engine.build(graph, made.qparams), graph, made.qparams, test, 16)
        assert agreement.largest_lsb <= 1
        assert agreement.differing < 0.01
    twin = SlowTwin(made.graph, made.qparams)
    torch.testing.assert_close(Simulate().build(graph, made.qparams)(test), twin.run(test), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rows": 0}, "rows=0: allowed are whole numbers from 1"),
        ({"rows": 1.5}, r"rows=1\.5: "),
        ({"sweeps": -1}, "sweeps=-1: "),
        ({"sweeps": True}, "sweeps=True: "),
        ({"damp": 0}, "damp=0: allowed are numbers above 0"),
        ({"damp": "x"}, "damp='x': "),
        ({"damp": float("nan")}, "damp=nan: "),
        ({"seed": -1}, "seed=-1: "),
        ({"damp": 100}, "damp=100: allowed are numbers above 0 and below 100"),
        ({"rescale": 1.5}, r"rescale=1\.5: allowed are numbers from 0 to 1"),
        ({"rescale": -0.1}, r"rescale=-0\.1: "),
    ],
)
def test_values_that_are_not_allowed(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Reconstruct(**values)


@pytest.mark.parametrize("rescale", [0, 1])
def test_values_at_their_limits_are_allowed(rescale: float) -> None:
    Reconstruct(rows=1, damp=99.9, sweeps=0, rescale=rescale, seed=0)
