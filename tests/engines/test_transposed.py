"""Transposed convolutions in every engine, against float64 arithmetic on the codes that the engine had before."""

from collections.abc import Mapping
from typing import TypeAlias

import pytest
import torch
import torch.nn.functional as F
from engine_networks import SCHEMES, mixed_widths, quantized
from exact_layers import TRANSPOSED, in_codes
from small_networks import shaken
from torch import Tensor, nn
from whole_codes import codes_and_outputs

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines import Int8, Integer, Simulate
from quant_sweep.engines.int8 import IntegerNetwork
from quant_sweep.engines.integer.engine import IntegerOnlyNetwork
from quant_sweep.engines.lowering import Layer, Quantize, lower
from quant_sweep.graph import Fusion, QuantGraph, capture
from quant_sweep.quantization.scheme import BitWidths

# How far a code may lie from the exact value: what float32 makes of a tie, or the engine's own bound.
ENGINES = {Simulate: 0.5 + 1e-4, Int8: 0.5 + IntegerNetwork.rounds, Integer: 0.5 + IntegerOnlyNetwork.rounds}

Options: TypeAlias = Mapping[str, object]
OPTIONS: Mapping[str, Options] = {
    "plain": {"kernel_size": 3},
    "one pixel": {"kernel_size": 1},
    "stride": {"kernel_size": 2, "stride": 2},
    "more stride than kernel": {"kernel_size": 2, "stride": 3},
    "padding": {"kernel_size": 4, "stride": 2, "padding": 1},
    "more padding than kernel": {"kernel_size": 2, "stride": 2, "padding": 2},
    "dilation": {"kernel_size": 3, "dilation": 2, "padding": 1},
    "output_padding": {"kernel_size": 3, "stride": 3, "padding": 1, "output_padding": 2},
    "output_padding by dilation": {"kernel_size": 2, "dilation": 3, "output_padding": 2},
    "groups": {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1, "groups": 2},
    "depthwise": {"kernel_size": 4, "stride": 2, "padding": 1, "groups": 6},
    "without bias": {"kernel_size": 3, "stride": 2, "dilation": 2, "bias": False},
}

pytestmark = pytest.mark.usefixtures("exact_int8")


class Decoder(nn.Module):
    """A transposed convolution behind a ReLU, a second one with a residual, and a third that makes the outputs."""

    def __init__(self, dims: int, options: Options) -> None:
        super().__init__()
        layer = TRANSPOSED[dims]
        self.stem = layer(3, 6, 3, padding=1)
        self.up, self.norm = layer(6, 12, **options), (nn.BatchNorm1d, nn.BatchNorm2d)[dims - 1](12)
        self.skip, self.head = layer(6, 12, **options), layer(12, 6, **options)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        return self.head(F.relu6(self.norm(self.up(x)) + self.skip(x)))


def batch_of(dims: int, seed: int) -> Tensor:
    return torch.randn(3, 3, *(9, 7)[:dims], generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module", params=[(dims, name) for dims in (1, 2) for name in OPTIONS], ids=str)
def decoder(request: pytest.FixtureRequest) -> tuple[QuantGraph, int, Options]:
    dims, name = request.param
    torch.manual_seed(0)
    model = shaken(Decoder(dims, OPTIONS[name]))
    return capture(model, batch_of(dims, seed=0), Fusion.conv_bn_relu), dims, OPTIONS[name]


@pytest.mark.parametrize("scheme", SCHEMES)
def test_codes_are_the_exact_sums_of_codes_rounded(
    decoder: tuple[QuantGraph, int, Options], scheme: str, exact_int8: int
) -> None:
    graph, dims, options = decoder
    batch = batch_of(dims, seed=1)
    widths = mixed_widths(graph, 0 if scheme == "affine" else 1, exact_int8)
    qparams = quantized(graph, batch_of(dims, seed=0), SCHEMES[scheme], widths)
    assert {q.name for q in graph.activations} == {"input", "relu.output", "skip.output", "relu6.output"}
    for engine, bound in ENGINES.items():
        codes, outputs = codes_and_outputs(engine(), graph, qparams, batch)
        assert codes.keys() == {q.name for q in graph.activations}
        assert torch.equal(codes["input"], quantize(batch, qparams["input"]))

        def layer(name: str, read: str, codes=codes, **geometry: object) -> Tensor:
            return exact_layer(graph, qparams, name, codes[read], qparams[read], **(geometry or options))

        residual = dequantize(codes["skip.output"], qparams["skip.output"]).double()
        wanted = {
            "relu.output": layer("stem", "input", padding=1).clamp(min=0),
            "skip.output": layer("skip", "relu.output"),
            "relu6.output": (layer("up", "relu.output") + residual).clamp(0, 6),
        }
        for name, real in wanted.items():
            assert codes[name].shape == real.shape
            off = (codes[name] - in_codes(real, qparams[name])).abs().max()
            assert float(off) <= bound, (engine.__name__, name)
        real = layer("head", "relu6.output")
        assert outputs.shape == real.shape
        assert outputs.dtype == torch.float32
        assert float((outputs - real).abs().max()) <= 1e-5 * float(real.abs().max()), engine.__name__


def exact_layer(
    graph: QuantGraph, qparams: Mapping[str, QParams], name: str, x: Tensor, x_grid: QParams, **options: object
) -> Tensor:
    """Real outputs of a transposed convolution, float64, from whole sums of codes, by torch's own function."""
    dims = x.dim() - 2
    arguments = {key: value for key, value in options.items() if key not in ("kernel_size", "bias")}
    groups = options.get("groups", 1)
    assert isinstance(groups, int)
    grid, bias = qparams[f"{name}.weight"], graph.graph.constants.get(f"{name}.bias")
    codes = quantize(graph.graph.constants[f"{name}.weight"], grid).double()  # (out, in / groups, *kernel)
    by_input = torch.cat([part.transpose(0, 1) for part in codes.chunk(groups)])  # (in, out / groups, *kernel)
    function = F.conv_transpose1d if dims == 1 else F.conv_transpose2d
    sums = function((x - x_grid.zero_point).double(), by_input, **arguments)
    assert torch.equal(sums, sums.round())
    shape = (-1, *[1] * dims)
    real = sums * (grid.scale.double() * x_grid.scale.double()).reshape(shape)
    return real if bias is None else real + bias.double().reshape(shape)


def test_nothing_of_it_stays_in_float(decoder: tuple[QuantGraph, int, Options]) -> None:
    graph, dims, _ = decoder
    network = lower(graph, quantized(graph, batch_of(dims, seed=0), SCHEMES["affine"], BitWidths(8, 8, {})))
    assert network.float_tensors == ()
    assert [type(step) for step in network.steps] == [Quantize, *[Layer] * 4]
    assert dict(graph.float_weights) == {}
    assert [step.residual is not None for step in network.steps if isinstance(step, Layer)] == [
        False,
        False,
        True,
        False,
    ]
