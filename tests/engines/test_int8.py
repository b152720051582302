"""`Int8` against exact sums layer by layer, and against `Simulate` tensor by tensor."""

import math
import platform
from collections.abc import Mapping

import pytest
import torch
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
from exact_layers import exact, grid, grids, layers, random_codes
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import cifar_resnet20, images, tiny
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import Calibration, calibrate, choose_qparams
from quant_sweep.engines import Int8, Simulate
from quant_sweep.engines.lowering import Layer, Value
from quant_sweep.engines.onednn import Placed, kernel_of, support, why_not_exact
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, QuantGraph, quantizable
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs

RARE = 1e-4  # share of values that may round to the other side of a tie
NEAR = 1e-4  # how far from the tie, in codes: what float32 sums of some hundred products are off

pytestmark = pytest.mark.skipif(why_not_exact() is not None, reason="needs exact integer kernels")


# -- one layer against exact sums --


def stored(codes: Tensor, qparams: QParams) -> Tensor:
    return (codes + Placed.of(qparams).offset).to(torch.uint8)


@settings(max_examples=60)
@given(data=st.data(), module=layers(), x_grid=grids(0.05), out_grid=grids(0.05), with_residual=st.booleans())
def test_layer_is_the_exact_sum_rounded(
    data: st.DataObject, module: nn.Module, x_grid: QParams, out_grid: QParams, with_residual: bool
) -> None:
    bits, per_channel = data.draw(st.integers(2, 8)), data.draw(st.booleans())
    limits = data.draw(st.sampled_from([(-math.inf, math.inf), (0.0, math.inf), (0.0, 0.3), (-0.2, 0.2)]))
    spec = QuantSpec(
        bits, signed=True, symmetric=True, narrow_range=per_channel, channel_axis=0 if per_channel else None
    )
    size = module.weight.abs().flatten(1).amax(1) if per_channel else module.weight.abs().max()
    scale = (size.detach() / spec.qmax).clamp(min=1e-6)
    weight_grid = QParams(scale, torch.zeros_like(scale, dtype=torch.int32), spec)
    dims = module.weight.dim() - 2
    sides = (data.draw(st.integers(5, 8)),) * max(dims, 0)
    x = random_codes((2, module.weight.shape[1] * getattr(module, "groups", 1), *sides), x_grid)
    real = exact(module, weight_grid, x, x_grid)
    residual_grid = data.draw(grids(0.05)) if with_residual else None
    operands = [stored(x, x_grid)]
    if residual_grid is not None:
        residual = random_codes(tuple(real.shape), residual_grid)
        operands.append(stored(residual, residual_grid))
        real = real + dequantize(residual, residual_grid).double()
    step = Layer(
        Value("out", out_grid), "layer", Value("x", x_grid), residual_grid and Value("residual", residual_grid), limits
    )
    codes = kernel_of(step, {"layer": module}, {"layer.weight": weight_grid}, overwrite=False)(*operands)
    found = codes.to(torch.int64) - Placed.of(out_grid).offset
    wanted = real.clamp(*limits) / out_grid.scale.double() + out_grid.zero_point
    wanted = wanted.clamp(out_grid.spec.qmin, out_grid.spec.qmax)
    assert bool(((found >= out_grid.spec.qmin) & (found <= out_grid.spec.qmax)).all())
    # The nearest code, but for what float32 makes of a tie.
    assert float((found - wanted).abs().max()) <= 0.5 + 1e-4


def test_padding_is_the_real_zero_whatever_its_code() -> None:
    """A weight of ones over a constant image sums fewer pixels at the rim: padding adds nothing there."""
    module = nn.Conv2d(1, 1, 3, padding=1, bias=False)
    nn.init.ones_(module.weight)
    x_grid, out_grid = grid(8, False, 0.4, 0.5), grid(8, False, 0.0, 0.5)
    weight_grid = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec(2, signed=True))
    step = Layer(Value("out", out_grid), "c", Value("x", x_grid), None, (0.0, math.inf))
    ones = quantize(torch.ones(1, 1, 4, 4), x_grid)
    codes = kernel_of(step, {"c": module}, {"c.weight": weight_grid}, overwrite=False)(stored(ones, x_grid))
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
        step = Layer(Value("out", out_grid), "c", Value("x", x_grid), None, (-math.inf, math.inf))
        kernel = kernel_of(step, {"c": module}, {"c.weight": weight_grid}, overwrite=False)
        codes = kernel(stored(halves, x_grid)).int() - Placed.of(out_grid).offset
        assert torch.equal(codes, quantize(dequantize(halves, x_grid), out_grid))


# -- networks against Simulate --


@torch.no_grad()
def difference_per_tensor(
    graph: QuantGraph, qparams: Mapping[str, QParams], batch: Tensor
) -> tuple[dict[str, Tensor], float]:
    """Where the two engines round differently, each tensor computed from the same inputs.

    A value that falls to the other side of a tie changes everything behind it. So `Simulate` goes on from the codes
    that `Int8` had found, after its own were compared with them.

    Returns:
        By point, how many codes apart (int32); and how far apart the logits are, relative to their norm.

    Raises:
        AssertionError: a value that is not near a tie was rounded differently.
    """
    network, reference = Int8().build(graph, qparams), Simulate().build(graph, qparams)
    codes, apart = network.codes(batch), {}
    for point in graph.activations:

        def compare_and_replace(
            _module: nn.Module, args: tuple[Tensor], output: Tensor, name: str = point.name
        ) -> Tensor:
            apart[name] = (quantize(output, qparams[name]) - codes[name]).abs()
            steps = args[0][apart[name] > 0] / qparams[name].scale
            assert bool((((steps - steps.floor()) - 0.5).abs() < NEAR).all()), name
            return dequantize(codes[name], qparams[name])

        reference.get_submodule(f"quantization_points.{point.node}").register_forward_hook(compare_and_replace)
    logits, wanted = network(batch), reference(batch)
    assert codes.keys() == apart.keys() == {point.name for point in graph.activations}
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
    return calibrate(quantizable(cifar_resnet20(), request.param), [images(2)])


@pytest.mark.parametrize("bits", [8, 5, 4, 3, 2])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_resnet_has_the_codes_of_simulate(calibrated_resnet: Calibration, scheme: str, bits: int) -> None:
    graph = calibrated_resnet.graph
    specs = assign_specs(graph, SCHEMES[scheme], BitWidths(bits, bits, {}))
    qparams = choose_qparams(calibrated_resnet, specs, MSE(), MinMax())
    assert_agrees(graph, qparams, images(2, seed=1))


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("fusion", Fusion)
@pytest.mark.parametrize("network", SMALL)
def test_small_networks_of_mixed_widths(network: str, fusion: Fusion, scheme: str, seed: int) -> None:
    graph = quantizable(SMALL[network](), fusion)
    qparams = quantized(graph, images(4, size=20), SCHEMES[scheme], mixed_widths(graph, seed))
    assert_agrees(graph, qparams, images(4, seed=1, size=20))


@pytest.mark.slow
@pytest.mark.parametrize("fusion", Fusion)
@pytest.mark.parametrize("network", LARGE)
def test_torchvision_networks(network: str, fusion: Fusion) -> None:
    graph = quantizable(torchvision_model(network)(), fusion)
    scheme = SYMMETRIC if fusion is Fusion.bn else AFFINE
    qparams = quantized(graph, images(2, size=64), scheme, mixed_widths(graph, seed=0))
    assert_agrees(graph, qparams, images(2, seed=1, size=64))


@pytest.mark.skipif(not CHECKPOINT.exists(), reason="needs the checkpoint")
@pytest.mark.parametrize(("bits", "error"), [(8, 0.02), (4, 0.1)])
def test_trained_network_gives_the_logits_of_simulate(bits: int, error: float) -> None:
    graph = quantizable(trained_resnet20(), Fusion.conv_bn_relu)
    qparams = quantized(graph, smooth_images(16, seed=0), AFFINE, BitWidths(bits, bits, {}))
    batch = smooth_images(32, seed=1)
    with torch.no_grad():
        logits, wanted = Int8().build(graph, qparams)(batch), Simulate().build(graph, qparams)(batch)
    assert float((logits - wanted).norm() / wanted.norm()) < error
    assert float((logits.argmax(1) == wanted.argmax(1)).float().mean()) >= 0.9
    assert_agrees(graph, qparams, batch)


# -- what the network shows --


def test_codes_lie_in_their_grids_own_numbers() -> None:
    graph = quantizable(cifar_resnet20(), Fusion.conv_bn_relu)
    qparams = quantized(graph, images(4), SYMMETRIC, BitWidths(4, 4, {}))
    batch = images(4, seed=1)
    codes = Int8().build(graph, qparams).codes(batch)
    assert list(codes) == [point.name for point in graph.activations]
    assert torch.equal(codes["input"], quantize(batch, qparams["input"]))
    for name, code in codes.items():
        assert code.dtype == torch.int32
        assert qparams[name].spec.qmin <= code.min()
        assert code.max() <= qparams[name].spec.qmax


def test_float_tensors_are_named() -> None:
    def named(model: nn.Module, fusion: Fusion) -> tuple[str, ...]:
        graph = quantizable(model, fusion)
        return Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(8, 8, {}))).float_tensors

    assert named(cifar_resnet20(), Fusion.conv_bn_relu) == ()
    assert named(cifar_resnet20(), Fusion.bn) == ()
    assert {"bn1.output", "layer1.0.conv2.output", "layer1.0.add.output"} <= set(named(cifar_resnet20(), Fusion.none))
    assert {"mul.output", "norm.output", "layer_norm.output"} <= set(named(of(Functions)(), Fusion.conv_bn_relu))


def test_model_and_images_stay_as_they_are() -> None:
    graph = quantizable(of(Residuals)(), Fusion.conv_bn_relu)
    batch = images(2, size=20)
    qparams = quantized(graph, batch, AFFINE, BitWidths(8, 8, {}))
    state = {name: value.clone() for name, value in graph.module.state_dict().items()}
    kept = batch.clone()
    network = Int8().build(graph, qparams)
    first, second = network(batch), network(batch)
    assert torch.equal(first, second)
    assert torch.equal(batch, kept)
    assert all(torch.equal(value, state[name]) for name, value in graph.module.state_dict().items())
    assert not first.requires_grad


@pytest.mark.parametrize("size", [1, 3])
def test_any_batch_size(size: int) -> None:
    graph = quantizable(cifar_resnet20(), Fusion.conv_bn_relu)
    network = Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(4, 4, {})))
    batch = images(4, seed=2)
    assert torch.equal(network(batch)[:size], network(batch[:size]))


def test_images_that_come_together_are_computed_as_if_alone() -> None:
    """More than pass through the network at once, then another size, for which the weights are packed anew."""
    graph = quantizable(of(Residuals)(), Fusion.conv_bn_relu)
    network = Int8().build(graph, quantized(graph, images(4, size=20), AFFINE, BitWidths(4, 4, {})))
    for size in (20, 28, 20):
        batch = images(150, seed=3, size=size)
        assert torch.equal(network(batch), torch.cat([network(image) for image in batch.split(1)]))


def test_nan_becomes_no_number() -> None:
    graph = quantizable(tiny(), Fusion.conv_bn_relu)
    network = Int8().build(graph, quantized(graph, images(4), AFFINE, BitWidths(8, 8, {})))
    with pytest.raises(FloatingPointError, match="NaN"):
        network(images(4) * float("nan"))


# -- what is refused --


@pytest.fixture(scope="module")
def prepared() -> tuple[QuantGraph, dict[str, QParams]]:
    graph = quantizable(tiny(), Fusion.conv_bn_relu)
    return graph, quantized(graph, images(4), AFFINE, BitWidths(8, 8, {}))


@pytest.mark.parametrize(("name", "bits"), [("input", 9), ("conv2.weight", 16), ("relu.output", 10)])
def test_wide_grids_are_refused(name: str, bits: int, prepared: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, _ = prepared
    qparams = quantized(graph, images(4), AFFINE, BitWidths(8, 8, {name: bits}))
    with pytest.raises(InputError, match=f"engine=int8: {name} has {bits} bits, .*use engine=simulate"):
        Int8().build(graph, qparams)


@pytest.mark.parametrize("name", ["input", "conv2.weight", "linear.weight", "adaptive_avg_pool2d.output"])
def test_layers_without_grids_are_refused(name: str, prepared: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, qparams = prepared
    assert name in qparams
    with pytest.raises(InputError, match=f"engine=int8: {name} has no grid; use engine=simulate"):
        Int8().build(graph, {key: value for key, value in qparams.items() if key != name})


def test_grids_the_kernels_do_not_have_are_refused(prepared: tuple[QuantGraph, dict[str, QParams]]) -> None:
    graph, qparams = prepared
    shifted = QParams(torch.tensor(1.0), torch.tensor(1, dtype=torch.int32), QuantSpec(8, signed=True))
    per_channel = QParams(torch.ones(3), torch.zeros(3, dtype=torch.int32), QuantSpec(8, channel_axis=1))
    with pytest.raises(InputError, match=r"engine=int8: conv1.weight .*zero_point 0.*engine=simulate"):
        Int8().build(graph, qparams | {"conv1.weight": shifted})
    with pytest.raises(InputError, match=r"engine=int8: input .*per channel.*engine=simulate"):
        Int8().build(graph, qparams | {"input": per_channel})


def test_sums_that_may_overflow_are_refused() -> None:
    class Long(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 160 * 160, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.linear(x.flatten(1))

    graph = quantizable(Long().eval(), Fusion.conv_bn_relu)
    batch = images(2, size=160)
    with pytest.raises(InputError, match=r"engine=int8: linear.weight: sums of 76800 products can overflow"):
        Int8().build(graph, quantized(graph, batch, AFFINE, BitWidths(8, 8, {})))
    assert_agrees(graph, quantized(graph, batch, AFFINE, BitWidths(8, 7, {})), batch)


def test_cpus_that_saturate_are_refused(
    monkeypatch: pytest.MonkeyPatch, prepared: tuple[QuantGraph, dict[str, QParams]]
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(platform, "machine", lambda: "x86_64")
        patch.setattr(torch.cpu, "_is_vnni_supported", lambda: False)
        with pytest.raises(InputError, match=r"engine=int8: this CPU has no VNNI.*; use engine=simulate"):
            Int8().build(*prepared)
    monkeypatch.setattr(support, "_trial", lambda _channels, _groups: False)
    with pytest.raises(InputError, match=r"engine=int8: .*saturate on this CPU; use engine=simulate"):
        Int8().build(*prepared)
