"""Which grid every tensor of a network gets."""

from dataclasses import replace

import pytest
import torch
from small_networks import captured, cifar_resnet20, images
from torch import nn

from quant_sweep.arithmetic.affine import qparams_from_range
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, QuantGraph, capture
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.quantize import quantize
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, assign_specs

SYMMETRIC = Scheme(
    weight_per_channel=False, weight_narrow_range=True, activation_symmetric=True, activation_narrow_range=True
)


@pytest.fixture(scope="module")
def graph() -> QuantGraph:
    return captured(cifar_resnet20, Fusion.conv_bn_relu)


def test_affine() -> None:
    assert AFFINE.weight(8) == QuantSpec(8, signed=True, symmetric=True, narrow_range=True, channel_axis=0)
    assert AFFINE.activation(4) == QuantSpec(4)
    assert (AFFINE.weight(8).qmin, AFFINE.weight(8).qmax, AFFINE.activation(4).qmax) == (-127, 127, 15)


def test_symmetric_is_the_original_study() -> None:
    grid = QuantSpec(3, signed=True, symmetric=True, narrow_range=True)
    assert SYMMETRIC.weight(3) == SYMMETRIC.activation(3) == grid
    assert (grid.qmin, grid.qmax) == (-3, 3)
    wide = Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)
    assert wide.weight(3) == wide.activation(3) == QuantSpec(3, signed=True, symmetric=True)


def test_weights_and_activations_may_differ(graph: QuantGraph) -> None:
    specs = assign_specs(graph, AFFINE, BitWidths(3, 5, {}))
    assert list(specs) == list(graph.names)
    assert {specs[q.name] for q in graph.weights} == {AFFINE.weight(3)}
    assert {specs[q.name] for q in graph.activations} == {AFFINE.activation(5)}


def test_overrides_cover_a_name_or_its_leading_parts_and_the_longest_counts(graph: QuantGraph) -> None:
    overrides = {"input": 8, "linear": 7, "layer1": 6, "layer1.0": 5, "layer1.0.conv1.weight": 2}
    bits = {name: spec.bits for name, spec in assign_specs(graph, AFFINE, BitWidths(4, 4, overrides)).items()}
    assert (bits["input"], bits["linear.weight"]) == (8, 7)
    assert (bits["layer1.1.conv1.weight"], bits["layer1.2.relu2.output"]) == (6, 6)
    assert (bits["layer1.0.conv2.weight"], bits["layer1.0.relu1.output"], bits["layer1.0.conv1.weight"]) == (5, 5, 2)
    assert bits["layer2.0.conv1.weight"] == bits["conv1.weight"] == 4


@pytest.mark.parametrize("name", ["layer", "layer1.0.conv", "nonsense", "", "layer1.0.bn1.output"])
def test_an_override_must_name_something(graph: QuantGraph, name: str) -> None:
    with pytest.raises(InputError, match=rf"^overrides\.{name}: no quantized tensor.*linear\.weight"):
        assign_specs(graph, AFFINE, BitWidths(8, 8, {name: 4}))


@pytest.mark.parametrize("widths", [BitWidths(1, 8, {}), BitWidths(8, 17, {}), BitWidths(8, 8, {"input": 0})])
def test_widths_are_checked(graph: QuantGraph, widths: BitWidths) -> None:
    with pytest.raises(InputError, match="allowed are the whole numbers 2 to 16"):
        assign_specs(graph, AFFINE, widths)


@pytest.mark.parametrize("scheme", [AFFINE, SYMMETRIC])
def test_grids_are_tied_around_a_relu_only_where_asked(scheme: Scheme) -> None:
    graph = captured(cifar_resnet20, Fusion.bn)
    specs = assign_specs(graph, scheme, BitWidths(4, 4, {"relu": 6}))
    ends = {name: torch.tensor(1.0 + index) for index, name in enumerate(graph.names)}
    per_tensor = [name for name, spec in specs.items() if spec.channel_axis is None]
    chosen = {name: qparams_from_range(torch.tensor(0.0), ends[name], specs[name]) for name in per_tensor}
    assert scheme.tied(graph, chosen) == chosen
    tied = replace(scheme, same_grid_around_relu=True).tied(graph, chosen)
    assert list(tied) == list(chosen)
    for name, grid in tied.items():
        after = "relu.output" if name == "conv1.output" else name.replace(".conv1.output", ".relu1.output")
        assert grid is chosen[after]
    assert tied["conv1.output"].spec.bits == 6


def plain() -> nn.Module:
    """Convolutions and ReLUs alone: no residual add comes between."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 16, 5)).eval()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
@pytest.mark.parametrize("signed", [False, True])
def test_rounding_twice_on_one_grid_is_rounding_once(bits: int, signed: bool) -> None:
    scheme = SYMMETRIC if signed else AFFINE
    once, twice = (
        calibrate(capture(plain(), images(2, size=8), fusion), [images(8, size=8)])
        for fusion in (Fusion.conv_bn_relu, Fusion.bn)
    )
    batch = images(16, seed=1, size=8)
    with torch.no_grad():
        after = quantize(once, bits=bits, observer=MSE(), scheme=scheme).network(batch)
        apart = quantize(twice, bits=bits, observer=MSE(), scheme=scheme).network(batch)
        tied = replace(scheme, same_grid_around_relu=True)
        same = quantize(twice, bits=bits, observer=MSE(), weight_observer=MinMax(), scheme=tied).network(batch)
    assert torch.equal(same, after)
    if not (signed and bits == 2):  # codes -1, 0 and 1: both sides have the same largest value and so one grid
        assert not torch.equal(apart, after)


def test_the_option_is_true_or_false() -> None:
    with pytest.raises(InputError, match="same_grid_around_relu='off'"):
        replace(AFFINE, same_grid_around_relu="off")  # type: ignore[arg-type]
