"""`Simulate` against a slow twin built on `affine.fake_quantize`, and every value on its grid."""

import random

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from small_networks import SlowTwin, captured, cifar_resnet20, images, tiny, watched
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines import Simulate
from quant_sweep.graph import FakeQuantize, Fusion, Network, QuantGraph
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, assign_specs

SYMMETRIC = Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)
NETWORKS = {"tiny": tiny, "resnet20": cifar_resnet20}


def prepared(network: str, fusion: Fusion, scheme: Scheme, seed: int) -> tuple[QuantGraph, dict[str, QParams]]:
    """A calibrated network whose tensors all have widths of their own, 2 to 16."""
    graph = captured(NETWORKS[network], fusion)
    draw = random.Random(seed)
    specs = assign_specs(graph, scheme, BitWidths(8, 8, {name: draw.randint(2, 16) for name in graph.names}))
    return graph, choose_qparams(calibrate(graph, [images(4)]), specs, MSE(), MinMax())


@pytest.fixture(
    scope="module",
    params=[(net, fusion, scheme) for net in NETWORKS for fusion in Fusion for scheme in (AFFINE, SYMMETRIC)],
    ids=lambda p: f"{p[0]}-{p[1].value}-{'affine' if p[2] is AFFINE else 'symmetric'}",
)
def mixed(request: pytest.FixtureRequest) -> tuple[QuantGraph, dict[str, QParams]]:
    return prepared(*request.param, seed=1)


def test_every_quantizer_rounds_as_affine_does(mixed: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, qparams = mixed
    network = Simulate().build(graph, qparams)
    assert isinstance(network, Network)
    seen: dict[str, tuple[Tensor, Tensor]] = {}
    for name, (function, _) in network.inserted.items():
        assert isinstance(function, nn.Module)
        function.register_forward_hook(lambda _, args, output, name=name: seen.update({name: (args[0], output)}))
    with torch.no_grad():
        network(images(4, seed=1))
    assert seen.keys() == {q.name for q in graph.activations}
    for name, (x, rounded) in seen.items():
        assert torch.equal(rounded, fake_quantize(x, qparams[name])), name


def test_whole_network_is_that_of_the_slow_twin(mixed: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, qparams = mixed
    with torch.no_grad():
        fast, slow = (
            Simulate().build(graph, qparams)(images(4, seed=1)),
            SlowTwin(graph, qparams).run(images(4, seed=1)),
        )
    torch.testing.assert_close(fast, slow, rtol=0.0, atol=1e-5 * float(slow.abs().max()))


def test_weights_and_what_the_layers_receive_lie_on_their_grids(mixed: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, qparams = mixed
    network = Simulate().build(graph, qparams)
    assert isinstance(network, Network)
    received: dict[str, tuple[Tensor, ...]] = {}
    layers = {layer: q.name for q in graph.weights for layer in q.layers}
    watching = watched(network.graph, layers, lambda name, read: received.update({name: read}))
    with torch.no_grad():
        Network(watching, network.inserted)(images(4, seed=1))
    assert received.keys() == layers.keys()
    for layer, (x, weight, *_) in received.items():
        assert torch.equal(weight, fake_quantize(graph.graph.constants[layers[layer]], qparams[layers[layer]])), layer
        grid = qparams[quantizer_before(graph, layer)]
        assert torch.equal(x, fake_quantize(x, grid)), layer
        assert grid.lo <= x.min()
        assert x.max() <= grid.hi


def quantizer_before(graph: QuantGraph, layer: str) -> str:
    """The tensor that `layer` reads, through whatever only moves values."""
    quantized = {(q.name, reader) for q in graph.activations for reader in q.readers}
    reader = graph.graph.node[layer]
    while (reader.inputs[0], reader.name) not in quantized:
        reader = graph.graph.node[reader.inputs[0]]
    return reader.inputs[0]


@pytest.mark.parametrize("fusion", Fusion)
def test_16_bits_are_nearly_float(fusion: Fusion) -> None:
    graph = captured(cifar_resnet20, fusion)
    batch = images(4)
    specs = assign_specs(graph, AFFINE, BitWidths(16, 16, {}))
    network = Simulate().build(graph, choose_qparams(calibrate(graph, [batch]), specs, MinMax(), MinMax()))
    with torch.no_grad():
        logits, original = network(batch), Network(graph.graph)(batch)
    assert float((logits - original).norm() / original.norm()) < 1e-3


def test_a_tensor_without_a_grid_stays_float() -> None:
    graph = captured(tiny, Fusion.conv_bn_relu)
    with torch.no_grad():
        assert torch.equal(Simulate().build(graph, {})(images(4)), Network(graph.graph)(images(4)))


@given(
    values=st.lists(st.floats(-1e3, 1e3, width=32), min_size=1, max_size=50),
    bits=st.integers(2, 16),
    signed=st.booleans(),
    scale=st.floats(2.0**-20, 2.0**5, width=32),
    share=st.floats(0, 1),
)
def test_fake_quantize_is_affine_ties_included(
    values: list[float], bits: int, signed: bool, scale: float, share: float
) -> None:
    spec = QuantSpec(bits, signed)
    zero_point = spec.qmin + round(share * spec.steps)
    qparams = QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), spec)
    x = torch.tensor(values)
    assert torch.equal(FakeQuantize(qparams)(x), fake_quantize(x, qparams))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("fusion", Fusion)
def test_gpu_rounds_as_the_cpu_does(fusion: Fusion) -> None:
    graph, qparams = prepared("tiny", fusion, AFFINE, seed=1)
    network = Simulate().build(graph, qparams).cuda()
    assert isinstance(network, Network)
    for name, (function, _) in network.inserted.items():
        assert_same_but_for_ties(function(images(4).cuda()).cpu(), images(4), qparams[name])
    with torch.no_grad():
        assert bool(network(images(4).cuda()).isfinite().all())


def assert_same_but_for_ties(rounded: Tensor, x: Tensor, qparams: QParams) -> None:
    """One code off is allowed where x / scale is as near to the middle between two codes as float32 can tell."""
    wrong = rounded != fake_quantize(x, qparams)
    steps = (x[wrong].double() / qparams.scale.double()).abs()
    from_tie = (steps.frac() - 0.5).abs()
    assert bool((from_tie <= 4 * torch.finfo(torch.float32).eps * steps.clamp(min=1.0)).all())
    off = (rounded - fake_quantize(x, qparams)).abs()
    assert bool((off <= 1.001 * qparams.scale).all())
