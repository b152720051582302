"""Random layers on random grids, and their outputs from whole sums."""

import math
from collections.abc import Mapping

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.lowering import Layer, Value
from quant_sweep.graph.operations import Convolution, Linear

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
UNLIMITED = (-math.inf, math.inf)
LIMITS = st.sampled_from([UNLIMITED, (0.0, math.inf), (0.0, 0.3), (-0.2, 0.2)])


# -- grids --


def grid(bits: int, signed: bool, place: float, scale: float) -> QParams:
    """An activation's grid whose zero-point lies at `place`, 0 to 1, between its lowest and highest code."""
    spec = QuantSpec(bits, signed)
    zero_point = spec.qmin + round(place * spec.steps)
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), spec)


@st.composite
def grids(draw: st.DrawFn, scale: float) -> QParams:
    place = draw(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1))
    return grid(draw(st.integers(2, 8)), draw(st.booleans()), place, scale * draw(st.floats(0.5, 2.0)))


def weight_grid_of(module: nn.Module, bits: int, per_channel: bool) -> QParams:
    axis = 0 if per_channel else None
    spec = QuantSpec(bits, signed=True, symmetric=True, narrow_range=per_channel, channel_axis=axis)
    weight = weight_of(module)
    size = weight.abs().flatten(1).amax(1) if per_channel else weight.abs().max()
    scale = (size / spec.qmax).clamp(min=1e-6)
    return QParams(scale, torch.zeros_like(scale, dtype=torch.int32), spec)


# -- layers --


@st.composite
def layers(draw: st.DrawFn) -> nn.Module:
    dims = draw(st.sampled_from([0, 1, 2, 2, 2, 2, 3]))
    groups = draw(st.sampled_from([1, 1, 2, 3]))
    inputs, outputs = groups * draw(st.integers(1, 5)), groups * draw(st.integers(1, 5))
    if draw(st.booleans()):  # depthwise
        groups, outputs = inputs, inputs * draw(st.integers(1, 2))
    bias = draw(st.booleans())
    torch.manual_seed(draw(st.integers(0, 1000)))
    if dims == 0:
        return nn.Linear(inputs, outputs, bias)
    stride, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    kernel = draw(st.integers(1, 3))
    if draw(st.sampled_from([False, False, True])):
        added = draw(st.integers(0, max(stride, dilation) - 1))
        padding = draw(st.integers(0, 2))
        return TRANSPOSED[dims](inputs, outputs, kernel, stride, padding, added, groups, bias, dilation)
    padding = draw(st.sampled_from([0, 1, 2, "same"] if stride == 1 else [0, 1, 2]))
    return CONVOLUTIONS[dims](inputs, outputs, kernel, stride, padding, dilation, groups, bias)


def operation_of(module: nn.Module) -> Convolution | Linear:
    """The record of a layer."""
    if isinstance(module, nn.Linear):
        return Linear()
    if module.padding == "same":
        total = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
        sides = tuple((size // 2, size - size // 2) for size in total)
    else:
        sides = tuple((size, size) for size in module.padding)
    geometry = (module.stride, sides, module.dilation, module.groups)
    return Convolution(*geometry, True, module.output_padding) if module.transposed else Convolution(*geometry)


def weight_of(module: nn.Module) -> Tensor:
    """(out, in / groups, *kernel) or (out, in); torch has transposed convolutions as (in, out / groups, *kernel)."""
    weight = module.weight.detach()
    if not getattr(module, "transposed", False):
        return weight
    by_group = [part.transpose(0, 1) for part in weight.chunk(module.groups)]
    return torch.cat(by_group)


def constants_of(module: nn.Module) -> Mapping[str, Tensor]:
    """As `layer_step` names them."""
    bias = {} if module.bias is None else {"layer.bias": module.bias.detach()}
    return {"layer.weight": weight_of(module), **bias}


def layer_step(
    module: nn.Module,
    x: QParams,
    out: QParams | None,
    shape: tuple[int, ...],
    residual: QParams | None = None,
    limits: tuple[float, float] = UNLIMITED,
) -> Layer:
    """The step of a layer whose weight is "layer.weight".

    Args:
        x, out, residual: the grids.
        shape: of the layer's output.
    """
    bias = None if module.bias is None else "layer.bias"
    at = None if residual is None else Value("residual", residual)
    made = (1, *shape[1:])
    return Layer(Value("out", out), operation_of(module), "layer.weight", bias, Value("x", x), at, limits, made)


def input_shape(module: nn.Module, sides: int) -> tuple[int, ...]:
    """Of two images of so many pixels along each axis."""
    channels = module.in_features if isinstance(module, nn.Linear) else module.in_channels
    return 2, channels, *[sides] * (module.weight.dim() - 2)


# -- exact sums --


def random_codes(shape: tuple[int, ...], qparams: QParams) -> Tensor:
    return torch.randint(qparams.spec.qmin, qparams.spec.qmax + 1, shape, dtype=torch.int32)


def real_of(codes: Tensor, qparams: QParams) -> Tensor:
    return dequantize(codes, qparams).double()


def exact(module: nn.Module, weight_grid: QParams, x: Tensor, x_grid: QParams) -> Tensor:
    """Real outputs, float64, from whole sums: the codes' products stay below 2**53."""
    codes = quantize(weight_of(module), weight_grid).to(torch.float64)
    if getattr(module, "transposed", False):
        codes = torch.cat([part.transpose(0, 1) for part in codes.chunk(module.groups)])
    shape = (-1, *[1] * (x.dim() - 2)) if not isinstance(module, nn.Linear) else (-1,)
    scale = (weight_grid.scale.double() * x_grid.scale.double()).reshape(shape)
    twin = torch.nn.utils.skip_init(type(module), **arguments(module), dtype=torch.float64)
    twin.weight.data = codes
    sums = twin((x - x_grid.zero_point).to(torch.float64))
    bias = 0.0 if module.bias is None else module.bias.detach().double().reshape(shape)
    return sums.detach().round() * scale + bias


def arguments(module: nn.Module) -> dict[str, object]:
    if isinstance(module, nn.Linear):
        return {"in_features": module.in_features, "out_features": module.out_features, "bias": False}
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups"]
    names += ["output_padding"] * module.transposed
    return {name: getattr(module, name) for name in names} | {"bias": False}


def in_codes(real: Tensor, qparams: QParams) -> Tensor:
    """Not rounded yet, float64."""
    return (real / qparams.scale.double() + qparams.zero_point).clamp(qparams.spec.qmin, qparams.spec.qmax)
