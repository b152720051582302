"""What the steps of a network are: what stays in codes, who takes what along, where float begins."""

import math
from collections import Counter
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from engine_networks import torchvision_model
from hypothesis import given
from hypothesis import strategies as st
from small_networks import captured, cifar_resnet20, images, tiny
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines.lowering import (
    Compute,
    Dequantize,
    Layer,
    Lookup,
    Lowered,
    Moved,
    Padded,
    PooledAverage,
    Quantize,
    Sum,
    bounds,
    lower,
    same_grid,
)
from quant_sweep.graph import Fusion, QuantGraph, capture
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs

UNLIMITED = (-math.inf, math.inf)


def on_grids(graph: QuantGraph, bits: int = 8, size: int = 16) -> tuple[QuantGraph, dict[str, QParams]]:
    specs = assign_specs(graph, AFFINE, BitWidths(bits, bits, {}))
    return graph, choose_qparams(calibrate(graph, [images(2, size=size)]), specs, MinMax(), MinMax())


def prepared(model: nn.Module, fusion: Fusion, bits: int = 8) -> tuple[QuantGraph, dict[str, QParams]]:
    return on_grids(capture(model, images(2), fusion), bits)


def lowered(model: nn.Module, fusion: Fusion = Fusion.conv_bn_relu) -> Lowered:
    return lower(*prepared(model, fusion))


def lowered_resnet(fusion: Fusion = Fusion.conv_bn_relu, bits: int = 8) -> Lowered:
    return lower(*on_grids(captured(cifar_resnet20, fusion), bits))


def layer_of(step: Layer) -> str:
    return step.weight.removesuffix(".weight")


def kinds(network: Lowered) -> Counter[type]:
    return Counter(type(step) for step in network.steps)


class Net(nn.Module):
    """Two convolutions and what `between` makes of their outputs, `module` first of a's; the third reads the result."""

    def __init__(self, between, module: nn.Module) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(3, 4, 3, padding=1)
        self.c, self.between, self.module = nn.LazyConv2d(4, 1), between, module

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.between(self.module(self.a(x)), self.b(x)))


def net(between, module: nn.Module | None = None) -> nn.Module:
    torch.manual_seed(0)
    network = Net(between, module or nn.Identity())
    network(images(1))  # for the lazy one
    return network.eval()


# -- whole networks --


def test_resnet_is_integer_from_the_images_to_the_logits() -> None:
    network = lowered_resnet()
    assert kinds(network) == {Quantize: 1, Layer: 20, Moved: 5, Padded: 2, PooledAverage: 1}
    assert network.float_tensors == ()
    layers = [step for step in network.steps if isinstance(step, Layer)]
    assert sum(layer.residual is not None for layer in layers) == 9
    assert all(layer.limits == (0.0, math.inf) for layer in layers[:-1])
    assert layers[-1].limits == UNLIMITED
    assert layers[-1].out.grid is None
    assert network.outputs == (layers[-1].out,)


def test_bn_rounds_before_sum_and_clamp() -> None:
    network = lowered_resnet(Fusion.bn)
    assert kinds(network) == {Quantize: 1, Layer: 20, Moved: 5, Padded: 2, PooledAverage: 1, Sum: 9, Lookup: 10}
    assert all(step.limits == UNLIMITED and step.residual is None for step in network.steps if isinstance(step, Layer))
    assert all(step.limits == (0.0, math.inf) for step in network.steps if isinstance(step, Sum | Lookup))
    assert network.float_tensors == ()


def test_none_leaves_layers_in_float() -> None:
    network = lowered_resnet(Fusion.none)
    assert all(step.out.grid is None for step in network.steps if isinstance(step, Layer))
    assert {"conv1.output", "bn1.output", "layer1.0.add.output"} <= set(network.float_tensors)
    assert "linear.output" not in network.float_tensors  # the logits


@pytest.mark.parametrize("fusion", Fusion)
@pytest.mark.parametrize("name", ["mobilenet_v3_small", "shufflenet_v2_x0_5", "squeezenet1_1"])
def test_values_are_written_once_and_before_they_are_read(name: str, fusion: Fusion) -> None:
    graph, qparams = on_grids(captured(torchvision_model(name), fusion, 32), size=32)
    network = lower(graph, qparams)
    written = {network.given.name, *graph.graph.constants}
    for step in network.steps:
        assert all(value.name in written for value in step.inputs), step
        assert step.out.name not in written
        written.add(step.out.name)
    assert all(value.name in written for value in network.outputs)
    assert network.quantized.keys() == {q.name for q in graph.activations}
    assert all(same_grid(value.grid, qparams[name]) for name, value in network.quantized.items())
    assert {step.weight for step in network.steps if isinstance(step, Layer)} == {q.name for q in graph.weights}


def test_squeeze_and_excitation_leaves_the_integers_only_to_multiply() -> None:
    network = lower(*on_grids(captured(torchvision_model("mobilenet_v3_small"), Fusion.bn, 32), size=32))
    assert len(network.float_tensors) == 3
    assert all("mul" in name for name in network.float_tensors)


# -- single rules --


def test_layer_takes_the_sum_along_but_not_twice() -> None:
    network = lowered(net(lambda a, b: F.relu(a + b)))
    first, second, _ = (step for step in network.steps if isinstance(step, Layer))
    assert (layer_of(first), first.residual, first.limits) == ("b", None, UNLIMITED)
    assert (layer_of(second), second.limits) == ("a", (0.0, math.inf))
    assert second.residual is first.out
    assert Sum not in kinds(network)


def test_sum_of_codes_that_no_layer_takes() -> None:
    network = lowered(net(lambda a, b: F.relu6(F.relu(a) + F.max_pool2d(F.relu(b), 1))))
    (step,) = (step for step in network.steps if isinstance(step, Sum))
    assert step.limits == (0.0, 6.0)
    assert network.float_tensors == ()
    network = lowered(net(lambda a, b: F.relu6(F.hardswish(a) + F.hardswish(b))))
    assert Sum not in kinds(network)  # neither operand is rounded
    assert {"hardswish.output", "hardswish_1.output", "add.output"} <= set(network.float_tensors)


@pytest.mark.parametrize(
    ("clamp", "limits"),
    [
        (F.relu, (0.0, math.inf)),
        (lambda x: x.relu(), (0.0, math.inf)),
        (F.relu6, (0.0, 6.0)),
        (nn.ReLU6(), (0.0, 6.0)),
        (nn.Hardtanh(-0.25, 0.5), (-0.25, 0.5)),
        (F.hardtanh, (-1.0, 1.0)),
        (lambda x: F.hardtanh(x, -2.0, max_val=0.5), (-2.0, 0.5)),
        (lambda x: x.clamp(max=0.5), (-math.inf, 0.5)),
        (lambda x: torch.clip(x, -0.25), (-0.25, math.inf)),
    ],
)
def test_limits_of_clamps(clamp, limits: tuple[float, float]) -> None:
    if isinstance(clamp, nn.Module):
        network = lowered(net(lambda a, b: torch.cat([a, b], 1), clamp))
    else:
        network = lowered(net(lambda a, b: torch.cat([clamp(a), b], 1)))
    layers = {layer_of(step): step for step in network.steps if isinstance(step, Layer)}
    assert layers["a"].limits == limits
    assert layers["b"].limits == UNLIMITED


def test_concatenation_stays_in_codes_on_one_grid_only() -> None:
    graph, qparams = prepared(net(lambda a, b: torch.cat([a, b], 1)), Fusion.conv_bn_relu)
    assert lower(graph, qparams).float_tensors == ("cat.output",)
    shared = dict.fromkeys(("a.output", "b.output"), qparams["cat.output"])
    network = lower(graph, qparams | shared)
    assert network.float_tensors == ()
    assert kinds(network) == {Quantize: 1, Layer: 3, Moved: 1}


def test_clamp_of_codes_on_the_same_grid_is_one_of_codes() -> None:
    graph, qparams = prepared(net(lambda a, b: F.relu(a).mul(b)), Fusion.bn)
    lookup = next(step for step in lower(graph, qparams).steps if isinstance(step, Lookup))
    assert not same_grid(lookup.x.grid, lookup.out.grid)
    network = lower(graph, qparams | {"relu.output": qparams["a.output"]})
    lookup = next(step for step in network.steps if isinstance(step, Lookup))
    assert same_grid(lookup.x.grid, lookup.out.grid)


@pytest.mark.parametrize(
    ("move", "kind"),
    [
        (lambda x: F.max_pool2d(x, 2), Moved),
        (lambda x: F.adaptive_max_pool2d(x, 3), Moved),
        (lambda x: x.view(x.size(0), x.shape[1], -1, 8), Moved),
        (lambda x: x.chunk(2, 1)[0], Moved),
        (lambda x: x[:, ::2], Moved),
        (lambda x: F.pad(x, (1, 1)), Padded),
        (lambda x: F.pad(x, (1, 1), value=0.0), Padded),
        (lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), Moved),
        (lambda x: F.pad(x, (1, 1), value=0.5), Compute),
        (lambda x: x.flip(1), Moved),
        (lambda x: torch.exp(x), Compute),
        (lambda x: x * 2.0, Compute),
    ],
)
def test_what_moves_codes(move, kind: type) -> None:
    model = net(lambda a, b: move(F.relu(a + b)))
    inside = steps_inside(lowered(model))
    if kind is Compute:  # codes would lead to no layer
        assert set(map(type, inside)) == {Compute}
        assert "relu.output" in lowered(model).float_tensors
        assert Dequantize in map(type, steps_inside(lowered(model, Fusion.bn)))
    else:
        assert kind in map(type, inside)
        assert Dequantize not in map(type, inside)
        assert lowered(model).float_tensors == ()
        assert all(step.out.grid is not None for step in inside if isinstance(step, Moved | Padded))


def steps_inside(network: Lowered) -> list[Moved | Padded | Compute | Dequantize]:
    return [step for step in network.steps if isinstance(step, Moved | Padded | Compute | Dequantize)]


@pytest.mark.parametrize(
    ("lowered", "paddings"),
    [
        (lowered_resnet, [(0, 0, 0, 0, 8, 8), (0, 0, 0, 0, 16, 16)]),
        (
            lambda: lowered(net(lambda a, b: a + F.pad(b, (1, 1, 2, 2)), nn.ZeroPad2d((1, 1, 2, 2)))),
            [(1, 1, 2, 2), (1, 1, 2, 2)],
        ),
    ],
)
def test_padding_with_zero(lowered: Callable[[], Lowered], paddings: list[tuple[int, ...]]) -> None:
    assert [step.padding for step in lowered().steps if isinstance(step, Padded)] == paddings


@pytest.mark.parametrize("missing", ["input", "conv2.weight"])
def test_layer_without_a_grid_is_computed_in_float(missing: str) -> None:
    graph, qparams = prepared(tiny(), Fusion.conv_bn_relu)
    network = lower(graph, {name: grid for name, grid in qparams.items() if name != missing})
    layer = "conv1" if missing == "input" else "conv2"
    assert layer not in {layer_of(step) for step in network.steps if isinstance(step, Layer)}
    assert layer in {step.out.name.removesuffix(".output") for step in network.steps if isinstance(step, Compute)}


def test_layer_whose_output_has_no_grid_leaves_its_residual_to_float() -> None:
    graph, qparams = prepared(tiny(), Fusion.conv_bn_relu)
    network = lower(graph, {name: grid for name, grid in qparams.items() if name != "relu_1.output"})
    layer = next(step for step in network.steps if isinstance(step, Layer) and layer_of(step) == "conv2")
    assert layer.residual is None
    assert layer.out.grid is None
    assert "conv2.output" in network.float_tensors


def test_no_grids_no_integers() -> None:
    graph, _ = prepared(tiny(), Fusion.conv_bn_relu)
    assert set(kinds(lower(graph, {}))) == {Compute}


def test_wide_grids_are_lowered_too() -> None:
    assert kinds(lowered_resnet(bits=16))[Layer] == 20


@given(
    x=st.lists(st.floats(-20, 20, width=32), min_size=1, max_size=20),
    limits=st.tuples(st.floats(-10, 10, width=32), st.floats(-10, 10, width=32)).map(lambda pair: tuple(sorted(pair))),
    bits=st.integers(2, 16),
    signed=st.booleans(),
    scale=st.floats(2.0**-8, 4.0, width=32),
    place=st.floats(0, 1),
)
def test_bounds_clamp_codes_as_limits_clamp_values(
    x: list[float], limits: tuple[float, float], bits: int, signed: bool, scale: float, place: float
) -> None:
    spec = QuantSpec(bits, signed)
    zero_point = torch.tensor(spec.qmin + round(place * spec.steps), dtype=torch.int32)
    grid = QParams(torch.tensor(scale), zero_point, spec)
    assert torch.equal(
        quantize(torch.tensor(x).clamp(*limits), grid), quantize(torch.tensor(x), grid).clamp(*bounds(grid, limits))
    )
    assert bounds(grid, UNLIMITED) == (spec.qmin, spec.qmax)
