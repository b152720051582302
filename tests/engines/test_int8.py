"""`Int8` against exact sums layer by layer, and against `Simulate` tensor by tensor."""

import math
import platform
from collections.abc import Callable, Mapping

import pytest
import torch
import torch.nn.functional as F
from engine_networks import (
    CHECKPOINT,
    LARGE,
    SCHEMES,
    SMALL,
    SYMMETRIC,
    Functions,
    Residuals,
    mixed_widths,
    of,
    quantized,
    smooth_images,
    torchvision_model,
    trained_resnet20,
)
from exact_kernels import WEIGHT_BITS
from exact_layers import (
    LIMITS,
    constants_of,
    exact,
    grid,
    grids,
    in_codes,
    input_shape,
    layer_step,
    layers,
    random_codes,
    real_of,
    weight_grid_of,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from kernel_calls import Calls
from small_networks import captured, cifar_resnet8, cifar_resnet20, images, tiny
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import Calibration, calibrate, choose_qparams
from quant_sweep.engines import Int8, Integer, Simulate
from quant_sweep.engines.int8 import IntegerNetwork
from quant_sweep.engines.lowering import Kernel, Layer
from quant_sweep.engines.onednn import Placed, kernel_of, support
from quant_sweep.errors import InputError
from quant_sweep.evaluation.agreement import compare_with_simulation
from quant_sweep.graph import Fusion, QuantGraph, capture, insert_at_quantizers, weights_on_grid
from quant_sweep.graph.operations import Convolution
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs

RARE = 1e-4  # share of values that may round to the other side of a tie
NEAR = 1e-4  # how far from the tie, in codes: what float32 sums of some hundred products are off

pytestmark = pytest.mark.usefixtures("exact_int8")


# -- one layer against exact sums --


def stored(codes: Tensor, qparams: QParams) -> Tensor:
    return (codes + Placed.of(qparams).offset).to(torch.uint8)


def kernel_of_layer(module: nn.Module, weight_grid: QParams, step: Layer) -> Kernel:
    return kernel_of(step, constants_of(module), {"layer.weight": weight_grid}, overwrite=False)


@settings(max_examples=100)
@given(data=st.data(), module=layers(), x_grid=grids(0.05), out_grid=grids(0.05), with_residual=st.booleans())
def test_layer_is_the_exact_sum_rounded(
    data: st.DataObject, module: nn.Module, x_grid: QParams, out_grid: QParams, with_residual: bool
) -> None:
    weight_grid = weight_grid_of(module, data.draw(st.integers(2, WEIGHT_BITS)), data.draw(st.booleans()))
    limits = data.draw(LIMITS)
    x = random_codes(input_shape(module, data.draw(st.integers(5, 8))), x_grid)
    real = exact(module, weight_grid, x, x_grid)
    residual_grid = data.draw(grids(0.05)) if with_residual else None
    operands, shape = [stored(x, x_grid)], tuple(real.shape)
    if residual_grid is not None:
        residual = random_codes(shape, residual_grid)
        operands.append(stored(residual, residual_grid))
        real = real + real_of(residual, residual_grid)
    step = layer_step(module, x_grid, out_grid, shape, residual_grid, limits)
    codes = kernel_of_layer(module, weight_grid, step)(*operands)
    found = codes.to(torch.int64) - Placed.of(out_grid).offset
    assert bool(((found >= out_grid.spec.qmin) & (found <= out_grid.spec.qmax)).all())
    # The nearest code, but for what float32 makes of a tie.
    distance = (found - in_codes(real.clamp(*limits), out_grid)).abs()
    assert float(distance.max()) <= 0.5 + IntegerNetwork.rounds


@settings(max_examples=60)
@given(data=st.data(), module=layers(), x_grid=grids(0.05))
def test_logits_are_the_exact_sums_in_float32(data: st.DataObject, module: nn.Module, x_grid: QParams) -> None:
    weight_grid = weight_grid_of(module, data.draw(st.integers(2, WEIGHT_BITS)), data.draw(st.booleans()))
    x = random_codes(input_shape(module, data.draw(st.integers(5, 8))), x_grid)
    real = exact(module, weight_grid, x, x_grid)
    sums = kernel_of_layer(module, weight_grid, layer_step(module, x_grid, None, tuple(real.shape)))(stored(x, x_grid))
    assert sums.dtype == torch.float32
    assert float((sums - real).abs().max()) <= 1e-6 * float(real.abs().max())


def test_padding_is_the_real_zero_whatever_its_code() -> None:
    """A weight of ones over a constant image sums fewer pixels at the rim: padding adds nothing there."""
    module = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(module.weight)
    x_grid, out_grid = grid(8, False, 0.4, 0.5), grid(8, False, 0.0, 0.5)
    weight_grid = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec(2, signed=True))
    step = layer_step(module, x_grid, out_grid, (1, 1, 4, 4), None, (0.0, math.inf))
    ones = quantize(torch.ones(1, 1, 4, 4), x_grid)
    codes = kernel_of_layer(module, weight_grid, step)(stored(ones, x_grid))
    rim = torch.tensor([[4, 6, 6, 4], [6, 9, 9, 6], [6, 9, 9, 6], [4, 6, 6, 4]])
    assert torch.equal(codes[0, 0].int(), (rim * 2).int())  # scale 0.5


@pytest.mark.parametrize("bits", range(2, 8))
@pytest.mark.parametrize("signed", [False, True])
def test_exact_ties_go_where_affine_sends_them(bits: int, signed: bool) -> None:
    """The kernel adds the zero-point before it rounds half to even: an odd one would turn every tie around."""
    module = nn.Conv2d(1, 1, 1, bias=False)
    nn.init.ones_(module.weight)
    weight_grid = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec(2, signed=True))
    x_grid = grid(8, True, 0.5, 0.125)
    halves = torch.arange(-100, 100).reshape(1, 1, 10, 20)  # codes of x; of the output they are half a code apart
    for place in torch.linspace(0, 1, 2**bits).tolist():
        out_grid = grid(bits, signed, place, 0.25)
        kernel = kernel_of_layer(module, weight_grid, layer_step(module, x_grid, out_grid, (1, 1, 10, 20)))
        codes = kernel(stored(halves, x_grid)).int() - Placed.of(out_grid).offset
        assert torch.equal(codes, quantize(dequantize(halves, x_grid), out_grid))


# -- networks against Simulate --


@torch.no_grad()
def difference_per_tensor(
    graph: QuantGraph, qparams: Mapping[str, QParams], batch: Tensor
) -> tuple[dict[str, Tensor], float]:
    """Where the two engines round differently, each tensor computed from the same inputs.

    A value that falls to the other side of a tie changes everything behind it. So the simulation goes on from the codes
    that `Int8` had found, after its own were compared with them.

    Returns:
        By quantizer, how many codes apart (int32); and how far apart the logits are, relative to their norm.

    Raises:
        AssertionError: a value that is not near a tie was rounded differently.
    """
    network, apart = Int8().build(graph, qparams), {}
    codes = network.codes(batch)

    def comparing(name: str) -> Callable[[Tensor], Tensor]:
        def compare_and_replace(x: Tensor) -> Tensor:
            apart[name] = (quantize(x, qparams[name]) - codes[name]).abs()
            steps = x[apart[name] > 0] / qparams[name].scale
            assert bool((((steps - steps.floor()) - 0.5).abs() < NEAR).all()), name
            return dequantize(codes[name], qparams[name])

        return compare_and_replace

    comparisons = {q.name: comparing(q.name) for q in graph.activations}
    reference = insert_at_quantizers(graph, comparisons, weights_on_grid(graph, qparams))
    logits, wanted = network(batch), reference(batch)
    assert codes.keys() == apart.keys() == {q.name for q in graph.activations}
    return apart, float((logits - wanted).norm() / wanted.norm())


def assert_agrees(graph: QuantGraph, qparams: Mapping[str, QParams], batch: Tensor) -> None:
    """The same codes but for rare ties, and the same logits from the same codes."""
    apart, logits = difference_per_tensor(graph, qparams, batch)
    assert max(int(tensor.max()) for tensor in apart.values()) <= 1
    different, all_values = (sum(f(t) for t in apart.values()) for f in (lambda t: int((t > 0).sum()), Tensor.numel))
    assert different <= max(2, RARE * all_values)
    assert logits < 1e-5


@pytest.fixture(params=Fusion, scope="module")
def calibrated_resnet(request: pytest.FixtureRequest) -> Calibration:
    return calibrate(captured(cifar_resnet8, request.param), [images(2)])


@pytest.mark.parametrize("bits", [8, 4, 3, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_resnet_has_the_codes_of_simulate(calibrated_resnet: Calibration, scheme: str, bits: int) -> None:
    graph = calibrated_resnet.graph
    specs = assign_specs(graph, SCHEMES[scheme], BitWidths(min(bits, WEIGHT_BITS), bits, {}))
    qparams = choose_qparams(calibrated_resnet, specs, MSE(), MinMax())
    assert_agrees(graph, qparams, images(2, seed=1))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("fusion", Fusion)
@pytest.mark.parametrize("network", SMALL)
def test_small_networks_of_mixed_widths(network: str, fusion: Fusion, scheme: str, seed: int) -> None:
    graph = captured(SMALL[network], fusion, 20)
    qparams = quantized(graph, images(4, size=20), SCHEMES[scheme], mixed_widths(graph, seed, WEIGHT_BITS))
    assert_agrees(graph, qparams, images(4, seed=1, size=20))


class CutBelow(nn.Module):
    """A sum that is cut off below 0 and not at the end of its grid, which reaches as far down as up."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.layer, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head((self.layer(x) + x).clamp(min=-0.1))


@pytest.mark.parametrize("bits", [8, 5])
def test_a_sum_may_be_cut_off_anywhere(bits: int) -> None:
    graph = captured(of(CutBelow), Fusion.conv_bn_relu)
    qparams = quantized(graph, images(4), SYMMETRIC, BitWidths(min(bits, WEIGHT_BITS), bits, {}))
    assert_agrees(graph, qparams, images(4, seed=1))


class CutBothWays(nn.Module):
    """A tensor that is cut off on both sides, far from the ends of its grid."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.layer(x).clamp(-0.1, 0.2))


def test_codes_may_be_cut_off_on_the_grid_that_they_have() -> None:
    graph = captured(of(CutBothWays), Fusion.bn)
    qparams = quantized(graph, images(4), SYMMETRIC, BitWidths(WEIGHT_BITS, 8, {}))
    before, cut = [q.name for q in graph.activations if q.name != "input"][:2]
    same = {**qparams, cut: qparams[before]}
    assert_agrees(graph, same, images(4, seed=1))
    codes = Int8().build(graph, same).codes(images(4, seed=1))
    assert int(codes[cut].max() - codes[cut].min()) < int(codes[before].max() - codes[before].min())


@pytest.mark.slow
@pytest.mark.parametrize("fusion", Fusion)
@pytest.mark.parametrize("network", LARGE)
def test_torchvision_networks(network: str, fusion: Fusion) -> None:
    graph = captured(torchvision_model(network), fusion, 64)
    scheme = SYMMETRIC if fusion is Fusion.bn else AFFINE
    qparams = quantized(graph, images(2, size=64), scheme, mixed_widths(graph, 0, WEIGHT_BITS))
    assert_agrees(graph, qparams, images(2, seed=1, size=64))


@pytest.mark.skipif(not CHECKPOINT.exists(), reason="needs the checkpoint")
@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.1)])
def test_trained_network_gives_the_logits_of_simulate(bits: int, error: float) -> None:
    graph = captured(trained_resnet20, Fusion.conv_bn_relu, 32)
    qparams = quantized(graph, smooth_images(16, seed=0), AFFINE, BitWidths(min(bits, WEIGHT_BITS), bits, {}))
    batch = smooth_images(32, seed=1)
    with torch.no_grad():
        logits, wanted = Int8().build(graph, qparams)(batch), Simulate().build(graph, qparams)(batch)
    assert float((logits - wanted).norm() / wanted.norm()) < error
    assert float((logits.argmax(1) == wanted.argmax(1)).float().mean()) >= 0.9
    assert_agrees(graph, qparams, batch)


# -- what the network shows --


def test_codes_lie_in_their_grids_own_numbers() -> None:
    graph = captured(cifar_resnet20, Fusion.conv_bn_relu)
    qparams = quantized(graph, images(4), SYMMETRIC, BitWidths(4, 4, {}))
    batch = images(4, seed=1)
    codes = Int8().build(graph, qparams).codes(batch)
    assert list(codes) == [q.name for q in graph.activations]
    assert torch.equal(codes["input"], quantize(batch, qparams["input"]))
    for name, code in codes.items():
        assert code.dtype == torch.int32
        assert qparams[name].spec.qmin <= code.min()
        assert code.max() <= qparams[name].spec.qmax


def test_float_tensors_are_named() -> None:
    def named(make: Callable[[], nn.Module], fusion: Fusion) -> tuple[str, ...]:
        graph = captured(make, fusion)
        return Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(WEIGHT_BITS, 8, {}))).float_tensors

    assert named(cifar_resnet20, Fusion.conv_bn_relu) == ()
    assert named(cifar_resnet20, Fusion.bn) == ()
    assert {"bn1.output", "layer1.0.conv2.output", "layer1.0.add.output"} <= set(named(cifar_resnet20, Fusion.none))
    assert {"mul.output", "norm.output", "layer_norm.output"} <= set(named(of(Functions), Fusion.conv_bn_relu))


def test_model_and_images_stay_as_they_are() -> None:
    graph = capture(of(Residuals)(), images(2, size=20), Fusion.conv_bn_relu)
    batch = images(2, size=20)
    qparams = quantized(graph, batch, AFFINE, BitWidths(WEIGHT_BITS, 8, {}))
    state = {name: value.clone() for name, value in graph.graph.constants.items()}
    kept = batch.clone()
    network = Int8().build(graph, qparams)
    first, second = network(batch), network(batch)
    assert torch.equal(first, second)
    assert torch.equal(batch, kept)
    assert graph.graph.constants.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in graph.graph.constants.items())
    assert not first.requires_grad


@pytest.mark.parametrize("size", [1, 3])
def test_any_batch_size(size: int) -> None:
    graph = captured(cifar_resnet20, Fusion.conv_bn_relu)
    network = Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(4, 4, {})))
    batch = images(4, seed=2)
    assert torch.equal(network(batch)[:size], network(batch[:size]))


def test_images_that_come_together_are_computed_as_if_alone() -> None:
    """More than pass through the network at once, then another size, for which the weights are packed anew."""
    graph = capture(of(Residuals)(), images(2, size=20), Fusion.conv_bn_relu)
    network = Int8().build(graph, quantized(graph, images(4, size=20), AFFINE, BitWidths(4, 4, {})))
    for size in (20, 28, 20):
        batch = images(150, seed=3, size=size)
        assert torch.equal(network(batch), torch.cat([network(image) for image in batch.split(1)]))


def test_as_many_images_pass_at_once_as_stay_in_the_cache() -> None:
    """4 MiB of the largest tensor, here 8 channels in float, but 16 to 64 images."""
    graph = capture(of(Residuals)(), images(2, size=20), Fusion.conv_bn_relu)
    qparams = quantized(graph, images(2, size=20), AFFINE, BitWidths(4, 4, {}))
    for size, at_once in ((160, 16), (48, 2**22 // (8 * 48 * 48 * 4)), (20, 64)):
        network = Int8().build(graph, qparams)
        assert network._images_that_stay_in_cache(images(4, size=size)) == at_once


def test_nan_becomes_no_number() -> None:
    graph = captured(tiny, Fusion.conv_bn_relu)
    network = Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(WEIGHT_BITS, 8, {})))
    with pytest.raises(FloatingPointError, match="NaN"):
        network(images(4) * float("nan"))


@torch.no_grad()
def test_sums_are_part_of_the_convolution_and_weights_are_packed_once() -> None:
    """A ResNet-20 has 9 residual sums and 21 layers; images of another size need another layout."""
    graph = captured(cifar_resnet20, Fusion.conv_bn_relu)
    network = Int8().build(graph, quantized(graph, images(2), AFFINE, BitWidths(4, 4, {})))
    counts = []
    for batch in (images(1), images(1, seed=1), images(1, size=24)):
        with Calls() as calls:
            network(batch)
        counts.append((calls.counts["onednn.qconv2d_pointwise.binary"], calls.counts["onednn.qconv_prepack.default"]))
    convolutions = sum(isinstance(node.operation, Convolution) for node in graph.graph.nodes)
    assert counts[1][0] == 9  # the first call finds out how many images to take together, too
    assert [packed for _, packed in counts] == [convolutions, 0, convolutions]


# -- what is refused --


@pytest.fixture(scope="module")
def prepared() -> tuple[QuantGraph, dict[str, QParams]]:
    graph = captured(tiny, Fusion.conv_bn_relu)
    return graph, quantized(graph, images(4), AFFINE, BitWidths(WEIGHT_BITS, 8, {}))


@pytest.mark.parametrize(("name", "bits"), [("input", 9), ("conv2.weight", 16), ("relu.output", 10)])
def test_wide_grids_are_refused(name: str, bits: int, prepared: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, _ = prepared
    qparams = quantized(graph, images(4), AFFINE, BitWidths(8, 8, {name: bits}))
    with pytest.raises(InputError, match=f"engine=int8: {name} has {bits} bits, .*use engine=simulate"):
        Int8().build(graph, qparams)


@pytest.mark.parametrize("name", ["input", "conv2.weight", "linear.weight", "adaptive_avg_pool2d.output"])
def test_layers_without_grids_are_computed_in_float(name: str, prepared: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, qparams = prepared
    assert name in qparams
    rest = {key: value for key, value in qparams.items() if key != name}
    network = Int8().build(graph, rest)
    assert compare_with_simulation(network, graph, rest, images(8), 8).largest_lsb <= 1
    torch.testing.assert_close(network(images(8)), Simulate().build(graph, rest)(images(8)), rtol=0.02, atol=0.02)
    with pytest.raises(InputError, match=f"engine=integer: {name} has no grid; use engine=int8"):
        Integer().build(graph, rest)


def test_a_network_all_in_float_is_refused(prepared: tuple[QuantGraph, dict[str, QParams]]) -> None:
    with pytest.raises(InputError, match="engine=int8: no layer has both its weight and its input on grids"):
        Int8().build(prepared[0], {"input": prepared[1]["input"]})


def test_grids_the_kernels_do_not_have_are_refused(prepared: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, qparams = prepared
    shifted = QParams(torch.tensor(1.0), torch.tensor(1, dtype=torch.int32), QuantSpec(7, signed=True))
    per_channel = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), QuantSpec(8, channel_axis=1))
    for name, engine in {"int8": Int8(), "integer": Integer()}.items():
        with pytest.raises(InputError, match=rf"engine={name}: conv1.weight .*zero_point 0.*engine=simulate"):
            engine.build(graph, qparams | {"conv1.weight": shifted})
    with pytest.raises(InputError, match=r"engine=int8: input .*per channel.*engine=simulate"):
        Int8().build(graph, qparams | {"input": per_channel})


def test_a_bias_that_is_no_number_is_refused(prepared: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph = captured(tiny, Fusion.conv_bn_relu)
    graph.graph.constants["linear.bias"][1] = math.nan
    with pytest.raises(InputError, match=r"engine=int8: linear\.bias holds NaN"):
        Int8().build(graph, prepared[1])


def test_sums_that_may_overflow_are_refused() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 160 * 160, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1))

    graph = capture(Long().eval(), images(2, size=160), Fusion.conv_bn_relu)
    batch = images(2, size=160)
    with pytest.raises(InputError, match=r"engine=int8: linear.weight: sums of 76800 products can overflow"):
        Int8().build(graph, quantized(graph, batch, AFFINE, BitWidths(8, 8, {})))
    assert_agrees(graph, quantized(graph, batch, AFFINE, BitWidths(WEIGHT_BITS, 7, {})), batch)


def test_cpus_that_saturate_are_refused(
    monkeypatch: pytest.MonkeyPatch, prepared: tuple[QuantGraph, dict[str, QParams]]
) -> None:
    graph, _ = prepared
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "x86_64")
        patch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
        with pytest.raises(InputError, match=r"no VNNI.* codes up to 255 and weights up to 127.*; use engine=simulate"):
            Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(8, 8, {})))
        with pytest.raises(InputError, match=r"no VNNI.* codes up to 255 and weights up to 127"):
            Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(4, 8, {"linear": 8})))
        Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(7, 8, {})))
        Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(8, 7, {})))
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: True)
    monkeypatch.setattr(support, "_trial", lambda *_: False)
    with pytest.raises(InputError, match=r"engine=int8: .*saturate on this CPU; use engine=simulate"):
        Int8().build(*prepared)
