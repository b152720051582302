"""`Integer` against exact sums, against `Simulate` and against onnxruntime; and without a single float on the way."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from engine_networks import (
    CHECKPOINT,
    SCHEMES,
    Functions,
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
    UNLIMITED,
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
from small_networks import captured, cifar_resnet8, cifar_resnet20, images, tiny
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines import Integer, Simulate
from quant_sweep.engines.integer.elementwise import average_kernel, sum_kernel
from quant_sweep.engines.integer.engine import IntegerOnlyNetwork
from quant_sweep.engines.integer.layers import Logits, layer_kernel
from quant_sweep.engines.integer.stored import FINE_BITS, Stored, fine_factor
from quant_sweep.engines.lowering import PooledAverage, Sum, Value
from quant_sweep.errors import InputError
from quant_sweep.evaluation.agreement import compare_with_simulation
from quant_sweep.graph import INPUT, Fusion, QuantGraph, capture, weights_on_grid
from quant_sweep.graph.operations import Average, Mean
from quant_sweep.quantization.scheme import AFFINE, BitWidths


class NoFloats(TorchDispatchMode):
    """Lets no operation see or make a floating-point tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.operations += 1
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, float) or (isinstance(leaf, Tensor) and leaf.is_floating_point()):
                raise AssertionError(f"{func} has to do with floats")
        return result


def stored(codes: Tensor, qparams: QParams) -> Tensor:
    return (codes - qparams.spec.qmin).to(torch.uint8)


# -- single steps against exact sums --


@settings(max_examples=100)
@given(data=st.data(), module=layers(), x_grid=grids(0.05), out_grid=grids(0.05), with_residual=st.booleans())
def test_layer_is_the_exact_sum_within_the_bound(
    data: st.DataObject, module: nn.Module, x_grid: QParams, out_grid: QParams, with_residual: bool
) -> None:
    weight_grid = weight_grid_of(module, data.draw(st.integers(2, 8)), data.draw(st.booleans()))
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
    kernel = layer_kernel(step, constants_of(module), weight_grid)
    with NoFloats():
        codes = kernel(*operands)
    assert codes.dtype == torch.uint8
    found = Stored.of(out_grid).codes(codes)
    distance = (found - in_codes(real.clamp(*limits), out_grid)).abs()
    assert float(distance.max()) <= 0.5 + IntegerOnlyNetwork.rounds


@given(data=st.data(), x_grid=grids(0.05), y_grid=grids(0.05), out_grid=grids(0.05))
def test_sum_is_the_exact_sum_rounded(data: st.DataObject, x_grid: QParams, y_grid: QParams, out_grid: QParams) -> None:
    x, y = random_codes((3, 40), x_grid), random_codes((3, 40), y_grid)
    limits = data.draw(st.sampled_from([UNLIMITED, (0.0, math.inf)]))
    kernel = sum_kernel(Sum(Value("out", out_grid), Value("x", x_grid), Value("y", y_grid), limits))
    with NoFloats():
        codes = kernel(stored(x, x_grid), stored(y, y_grid))
    real = (real_of(x, x_grid) + real_of(y, y_grid)).clamp(*limits)
    assert float((Stored.of(out_grid).codes(codes) - in_codes(real, out_grid)).abs().max()) <= 0.5 + 2.0**-11


POOLS = [
    nn.AvgPool2d(2), nn.AvgPool2d(3, 2, 1), nn.AvgPool2d(3, 2, 1, ceil_mode=True),
    nn.AvgPool2d((3, 2), 2, 1, count_include_pad=False, ceil_mode=True), nn.AvgPool2d(2, divisor_override=3),
    nn.AdaptiveAvgPool2d(1), nn.AdaptiveAvgPool2d((3, 2)), nn.AdaptiveAvgPool2d((None, 5)),
]  # fmt: skip
FUNCTIONS = [
    lambda x: F.avg_pool2d(x, 3, 2, padding=1), lambda x: F.avg_pool2d(x, 2, ceil_mode=True),
    lambda x: F.adaptive_avg_pool2d(x, (2, 3)), lambda x: x.mean((2, 3)), lambda x: torch.mean(x, dim=1, keepdim=True),
    lambda x: x.mean(-1), lambda x: F.avg_pool1d(x.flatten(2), 3), lambda x: F.adaptive_avg_pool1d(x.flatten(2), 4),
]  # fmt: skip


class Applied(nn.Module):
    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


@pytest.mark.parametrize("pool", [*POOLS, *FUNCTIONS], ids=lambda pool: str(pool).split(" at ")[0])
@pytest.mark.parametrize("size", [(7, 7), (8, 5)])
def test_average_is_the_exact_average_rounded(pool: Any, size: tuple[int, int]) -> None:
    x_grid, out_grid = grid(8, False, 0.3, 0.05), grid(6, True, 0.6, 0.13)
    x = random_codes((2, 3, *size), x_grid)
    graph = capture(Applied(pool), x.float(), Fusion.none).graph
    node = graph.nodes[-1]
    given_to_node = x if node.inputs == (INPUT,) else x.flatten(2)
    assert isinstance(node.operation, Average)
    kernel = average_kernel(PooledAverage(Value("out", out_grid), Value("x", x_grid), node.operation))
    with NoFloats():
        codes = kernel(stored(given_to_node, x_grid))
    real = pool((x - x_grid.zero_point).double()) * x_grid.scale.double()
    assert codes.shape == real.shape
    assert float((Stored.of(out_grid).codes(codes) - in_codes(real, out_grid)).abs().max()) <= 0.5 + 1e-6


def test_the_mean_of_a_single_place_is_over_all_its_values() -> None:
    """One image of one channel: as many sums as images."""
    x_grid, out_grid = grid(8, False, 0.0, 0.05), grid(8, False, 0.0, 0.05)
    for operation, shape in ((Mean((1, 2, 3), False), (1, 2, 3, 4)), (Mean((2, 3), True), (1, 1, 3, 4))):
        kernel = average_kernel(PooledAverage(Value("out", out_grid), Value("x", x_grid), operation))
        assert kernel(torch.full(shape, 37, dtype=torch.uint8)).flatten().tolist() == [37]


@pytest.mark.parametrize("below", [True, False])
def test_an_average_beside_a_half_is_rounded_to_the_nearer_side(below: bool) -> None:
    """2**18 codes of 253.5 on average, but for one step, on a grid three times as coarse: beside 84.5."""
    x_grid, out_grid = grid(8, False, 0.0, 1.0), grid(8, False, 0.0, 3.0)
    kernel = average_kernel(PooledAverage(Value("out", out_grid), Value("x", x_grid), Mean((1,), False)))
    codes = torch.tensor([253, 254], dtype=torch.uint8).repeat(2**17)[None]
    codes[0, 0] += -1 if below else 1
    assert kernel(codes).tolist() == [84 if below else 85]


def linear_of(weights: list[list[float]], bias: list[float]) -> nn.Linear:
    module = nn.Linear(len(weights[0]), len(weights))
    module.weight.data, module.bias.data = torch.tensor(weights), torch.tensor(bias)
    return module


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_bias_that_rounds_to_the_first_number_beyond_32_bits(sign: float) -> None:
    """2**31 - 0.29 steps: the sums are taken in units of two steps, and do not wrap around to the other sign."""
    x_grid, out_grid = grid(8, False, 0.5, 1 + 2896 * 2.0**-23), grid(8, True, 0.5, 0.01)
    weight_grid = QParams(
        torch.tensor(2.0**-31 * (1 - 2895 * 2.0**-23)), torch.tensor(0, dtype=torch.int32), QuantSpec(8, True)
    )
    unit = float(x_grid.scale) * float(weight_grid.scale)
    assert 2**31 - 0.5 < 1 / unit < 2**31
    module = linear_of([[0.0]], [sign])
    kernel = layer_kernel(layer_step(module, x_grid, out_grid, (1, 1)), constants_of(module), weight_grid)
    found = Stored.of(out_grid).codes(kernel(torch.tensor([[9]], dtype=torch.uint8)))
    assert found.item() == out_grid.zero_point + 100 * sign


@pytest.mark.parametrize("coarse", [4.0, 1000.0])
def test_sums_and_bias_of_an_ordinary_layer_are_in_units_of_the_products(coarse: float) -> None:
    """The bias is whole numbers of scale_x * scale_w (Jacob et al. 2018, section 2.4), if steps of the output are
    neither much finer than that nor coarser: nothing is shifted."""
    module = linear_of([[0.5, -1.27], [0.3, 0.2]], [0.7, -0.4])
    weight_grid, x_grid = weight_grid_of(module, 8, per_channel=False), grid(8, False, 0.4, 0.02)
    unit = 0.02 * 0.01
    out_grid = grid(8, False, 0.5, 256 * coarse * unit)
    kernel = layer_kernel(layer_step(module, x_grid, out_grid, (1, 2)), constants_of(module), weight_grid)
    assert kernel.accumulate.places.tolist() == [0, 0]
    assert kernel.accumulate.unit.tolist() == pytest.approx([unit, unit])
    assert kernel.accumulate.bias.tolist() == [3500, -2000]


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("bits", [2, 8])
def test_integer_logits_are_exact_but_for_one_of_29_bits(bits: int, bias: bool) -> None:
    """However coarse the products: the unit of the sums is as fine as 32 bits allow."""
    torch.manual_seed(0)
    module, x_grid = nn.Linear(6, 4, bias), grid(bits, False, 0.4, 0.9)
    weight_grid = weight_grid_of(module, bits, per_channel=True)
    x = random_codes((30, 6), x_grid)
    head = Logits(layer_step(module, x_grid, None, (30, 4)), constants_of(module), weight_grid)
    with NoFloats():
        logits = head(stored(x, x_grid))
    real = exact(module, weight_grid, x, x_grid)
    assert logits.dtype == torch.int32
    assert head.scale == pytest.approx(float(head.accumulate.largest.max()) / 2**29)
    assert float((logits.double() * head.scale - real).abs().max()) <= head.scale


def test_a_bias_that_does_not_fit_beside_tiny_weights() -> None:
    """A channel that training switched off: its output is its bias, whatever the scale of its weights."""
    module = nn.Conv2d(2, 3, 3)
    with torch.no_grad():
        module.weight[0] *= 1e-12
        module.weight[1] *= 1e-30
        module.bias.copy_(torch.tensor([0.7, -0.4, 0.1]))
    weight_grid = weight_grid_of(module, 8, per_channel=True)
    scale = module.weight.detach().abs().flatten(1).amax(1) / 127
    weight_grid = QParams(scale.clamp(min=torch.finfo(torch.float32).tiny), weight_grid.zero_point, weight_grid.spec)
    x_grid, out_grid = grid(8, False, 0.4, 0.02), grid(8, False, 0.5, 0.01)
    x = random_codes((2, 2, 5, 5), x_grid)
    kernel = layer_kernel(layer_step(module, x_grid, out_grid, (2, 3, 3, 3)), constants_of(module), weight_grid)
    found = Stored.of(out_grid).codes(kernel(stored(x, x_grid)))
    wanted = in_codes(exact(module, weight_grid, x, x_grid), out_grid)
    assert float((found - wanted).abs().max()) <= 0.51
    assert found[:, 0].unique().tolist() == [int(wanted[0, 0, 0, 0].round())]


@torch.no_grad()
@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("bias", [30.0, 1e3, -1e3])
def test_a_bias_of_the_last_layer_that_outweighs_its_weights(bias: float, bits: int) -> None:
    """Its sums are small beside it, and still tell the classes apart."""
    model = tiny()
    model.linear.bias.copy_(torch.tensor([bias, bias, 0.5 * bias, bias]))
    batch = images(8)
    graph = capture(model, batch, Fusion.conv_bn_relu)
    qparams = quantized(graph, batch, AFFINE, BitWidths(bits, 8, {}))
    simulated, integer = (engine().build(graph, qparams)(batch) for engine in (Simulate, Integer))
    offset = model.linear.bias
    assert float((integer - simulated).abs().max()) <= 2.0**-7 * float((simulated - offset).abs().max())


# -- networks --


class Whole(nn.Module):
    """Every kind of step that has an integer form."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        self.wide, self.deep = nn.Conv2d(16, 8, 3, padding=1, padding_mode="circular"), nn.Conv2d(8, 8, 3, groups=4)
        self.gate, self.last = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, stride=2, padding=1)
        self.pool, self.pad = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.ZeroPad2d((1, 0, 2, 1))
        self.act, self.line, self.head = nn.Hardswish(), nn.Conv1d(8, 6, 3, stride=2), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(self.pool(F.relu(self.stem(x))))
        x = F.relu6(self.same(F.avg_pool2d(x, 2, ceil_mode=True)) + F.max_pool2d(x, 2, ceil_mode=True))
        x = self.act(self.wide(torch.cat([x, x.chunk(2, 1)[1], x[:, :4]], 1)))
        x = F.relu(self.gate(torch.sigmoid(self.deep(x))))
        x = F.hardtanh(self.gate(x) + self.gate(F.adaptive_avg_pool2d(x, 1)), -0.5, 0.7)
        x = F.relu(self.last(x) + self.last(torch.tanh(x)))
        x = F.relu(self.line(F.max_pool1d(x.flatten(2), 2)))
        return self.head(F.adaptive_max_pool2d(x.unsqueeze(1), (6, 6)).flatten(1))


NETWORKS = {
    "tiny": tiny, "resnet8": cifar_resnet8, "whole": of(Whole),
    "mobilenet_v2": torchvision_model("mobilenet_v2"), "resnet18": torchvision_model("resnet18"),
}  # fmt: skip


@pytest.mark.parametrize("fusion", [Fusion.bn, Fusion.conv_bn_relu])
@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("network", NETWORKS)
def test_networks_have_the_codes_of_simulate_within_one(network: str, scheme: str, fusion: Fusion) -> None:
    size = 26 if network == "whole" else 32
    graph = captured(NETWORKS[network], fusion, size)
    qparams = quantized(graph, images(4, size=size), SCHEMES[scheme], mixed_widths(graph, seed=1))
    integer = Integer().build(graph, qparams)
    batch = images(4, seed=1, size=size)
    agreement = compare_with_simulation(integer, graph, qparams, batch, codes_of=len(batch))
    assert list(agreement.lsb) == [q.name for q in graph.activations]
    assert agreement.largest_lsb <= 1
    assert agreement.disagreement(integer.rounds) is None
    assert integer.float_tensors == ()


@pytest.mark.parametrize("network", ["tiny", "resnet8", "whole"])
def test_no_float_between_the_quantized_images_and_the_logits(network: str) -> None:
    graph = captured(NETWORKS[network], Fusion.conv_bn_relu, 26)
    integer = Integer().build(graph, quantized(graph, images(4, size=26), SCHEMES["affine"], mixed_widths(graph, 0)))
    batch = images(4, seed=1, size=26)
    codes = integer.quantize(batch)
    with NoFloats() as mode:
        logits = integer.integer_logits(codes)
    assert mode.operations > 20
    assert (codes.dtype, logits.dtype) == (torch.uint8, torch.int32)
    assert torch.equal(integer(batch), (logits.double() * integer.logit_scale).float())


def test_the_proof_would_see_a_float() -> None:
    with pytest.raises(AssertionError, match="floats"), NoFloats():
        torch.ones(2, dtype=torch.int32) * 0.5


def test_one_scale_for_all_logits_keeps_them_apart() -> None:
    graph = captured(cifar_resnet20, Fusion.conv_bn_relu)
    qparams = quantized(graph, images(8), AFFINE, BitWidths(8, 8, {}))
    integer, batch = Integer().build(graph, qparams), images(8, seed=1)
    last = integer.codes(batch)["avg_pool.output"] if "avg_pool.output" in qparams else None
    logits = integer(batch)
    simulated = Simulate().build(graph, qparams)(batch).detach()
    assert float((logits - simulated).norm() / simulated.norm()) < 0.02
    assert last is None or last.dtype == torch.int32


@pytest.mark.skipif(not CHECKPOINT.exists(), reason="needs the checkpoint")
@pytest.mark.parametrize(("bits", "agree"), [(8, 0.95), (4, 0.9)])
@torch.no_grad()
def test_trained_network(bits: int, agree: float) -> None:
    """The classes of `simulate`, unless its logits of both are as near as a step in each code of what the last layer
    reads can bring them."""
    graph = captured(trained_resnet20, Fusion.conv_bn_relu, 32)
    qparams = quantized(graph, smooth_images(16, seed=0), AFFINE, BitWidths(bits, bits, {}))
    batch = smooth_images(32, seed=1)
    integer, simulated = Integer().build(graph, qparams), Simulate().build(graph, qparams)(batch)
    ours, theirs = integer(batch).argmax(1), simulated.argmax(1)
    apart = (simulated.gather(1, theirs[:, None]) - simulated.gather(1, ours[:, None])).squeeze(1)
    weight = weights_on_grid(graph, qparams).constants["linear.weight"]
    one_step_each = (weight[theirs] - weight[ours]).abs().sum(1) * qparams["avgpool.output"].scale
    assert bool((apart <= one_step_each).all())  # 0 <= 0 where the classes are the same
    assert float((ours == theirs).float().mean()) >= agree
    agreement = compare_with_simulation(integer, graph, qparams, batch, codes_of=len(batch))
    assert agreement.largest_lsb <= 1
    assert agreement.disagreement(integer.rounds) is None


# -- onnxruntime --


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("groups", [1, 4])
def test_a_layer_is_that_of_onnxruntime_within_one(per_channel: bool, groups: int) -> None:
    """The same layer as an ONNX QLinearConv, whose requantization is in float; of 8 bits, or what this CPU multiplies
    exactly."""
    onnx, onnxruntime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    torch.manual_seed(0)
    module = nn.Conv2d(8, 12, 3, stride=2, padding=1, groups=groups)
    weight_grid = weight_grid_of(module, WEIGHT_BITS, per_channel)
    x_grid, out_grid = grid(8, False, 0.4, 0.02), grid(8, False, 0.45, 0.02)
    x = random_codes((2, 8, 9, 9), x_grid)
    step = layer_step(module, x_grid, out_grid, (2, 12, 5, 5))
    ours = layer_kernel(step, constants_of(module), weight_grid)(stored(x, x_grid))

    unit = (x_grid.scale.double() * weight_grid.scale.double()).expand(12)
    weights = torch.round(module.weight.detach() / weight_grid.scale.reshape(-1, 1, 1, 1)).to(torch.int8)
    scale = weight_grid.scale.reshape(-1) if per_channel else weight_grid.scale
    constants = {
        "x_scale": x_grid.scale, "x_zero": x_grid.zero_point.to(torch.uint8), "w": weights, "w_scale": scale,
        "w_zero": torch.zeros_like(scale, dtype=torch.int8), "y_scale": out_grid.scale,
        "y_zero": out_grid.zero_point.to(torch.uint8), "bias": torch.round(module.bias.detach() / unit).to(torch.int32),
    }  # fmt: skip
    node = onnx.helper.make_node(
        "QLinearConv", ["x", *constants], ["y"], strides=[2, 2], pads=[1, 1, 1, 1], group=groups, kernel_shape=[3, 3]
    )
    uint8 = onnx.TensorProto.UINT8
    graph = onnx.helper.make_graph(
        [node],
        "layer",
        [onnx.helper.make_tensor_value_info("x", uint8, [2, 8, 9, 9])],
        [onnx.helper.make_tensor_value_info("y", uint8, [2, 12, 5, 5])],
        [onnx.numpy_helper.from_array(value.numpy(), name) for name, value in constants.items()],
    )
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    theirs = torch.from_numpy(session.run(None, {"x": stored(x, x_grid).numpy()})[0])
    apart = (ours.int() - theirs.int()).abs()
    assert apart.max() <= 1
    assert (apart > 0).double().mean() < 0.02
    assert theirs.unique().numel() > 100


# -- what is refused --


def refused(graph: QuantGraph, qparams: Mapping[str, QParams], match: str) -> None:
    """Before any calibration, and when it is built."""
    with pytest.raises(InputError, match=match):
        Integer().check(graph, {name: grid.spec for name, grid in qparams.items()})
    with pytest.raises(InputError, match=match):
        Integer().build(graph, qparams)


@pytest.mark.parametrize(
    ("make", "fusion", "match"),
    [
        (tiny, Fusion.none, r"engine=integer: conv1.output is computed in float; use fusion=bn"),
        (of(Functions), Fusion.conv_bn_relu, r"engine=integer: .* is computed in float; use engine=simulate"),
        (
            lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval(),
            Fusion.bn,
            r"engine=integer: .*end with a layer's sums",
        ),
    ],
)
def test_floats_in_the_network_are_refused(make: Callable[[], nn.Module], fusion: Fusion, match: str) -> None:
    graph = capture(make(), images(2), fusion)
    refused(graph, quantized(graph, images(4), AFFINE, BitWidths(8, 8, {})), match)


def test_wide_grids_are_refused() -> None:
    graph = captured(tiny, Fusion.conv_bn_relu)
    qparams = quantized(graph, images(4), AFFINE, BitWidths(8, 8, {"input": 9}))
    refused(graph, qparams, r"engine=integer: input has 9 bits, .*use engine=simulate")


@pytest.mark.parametrize("source", [1 / 3, 0.7, 2.0**-9, 0.1])
def test_factors_between_grids_have_31_bits(source: float) -> None:
    """Scales are float32, what they are divided into is not."""
    target = Stored.of(QParams(torch.tensor(0.3), torch.tensor(0, dtype=torch.int32), QuantSpec(8)))
    wanted = source / target.scale * 2**FINE_BITS
    for real in (source, torch.tensor(source, dtype=torch.float64)):
        assert fine_factor(real, target).real.item() == pytest.approx(wanted, rel=2.0**-31, abs=0)
