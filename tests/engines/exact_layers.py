"""Random layers on random grids, and their outputs from whole sums."""

import torch
from hypothesis import strategies as st
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec


def grid(bits: int, signed: bool, place: float, scale: float) -> QParams:
    """An activation's grid whose zero-point lies at `place`, 0 to 1, between its lowest and highest code."""
    spec = QuantSpec(bits, signed)
    zero_point = spec.qmin + round(place * spec.steps)
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), spec)


@st.composite
def grids(draw: st.DrawFn, scale: float) -> QParams:
    place = draw(st.sampled_from([0.0, 0.5, 1.0]) | st.floats(0, 1))
    return grid(draw(st.integers(2, 8)), draw(st.booleans()), place, scale * draw(st.floats(0.5, 2.0)))


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
    mode = draw(st.sampled_from(["zeros", "zeros", "zeros", "circular", "replicate"]))
    padding = draw(st.sampled_from([0, 1, 2, "same"] if stride == 1 else [0, 1, 2]))
    conv = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[dims]
    kernel = draw(st.integers(1, 3))
    return conv(inputs, outputs, kernel, stride, padding, dilation, groups, bias, padding_mode=mode)


def random_codes(shape: tuple[int, ...], qparams: QParams) -> Tensor:
    return torch.randint(qparams.spec.qmin, qparams.spec.qmax + 1, shape, dtype=torch.int32)


def exact(module: nn.Module, weight_grid: QParams, x: Tensor, x_grid: QParams) -> Tensor:
    """Real outputs, float64, from whole sums: the codes' products stay below 2**53."""
    double = type(module).forward
    weight = quantize(module.weight.detach(), weight_grid).to(torch.float64)
    shape = (-1, *[1] * (x.dim() - 2)) if not isinstance(module, nn.Linear) else (-1,)
    scale = (weight_grid.scale.double() * x_grid.scale.double()).reshape(shape)
    twin = torch.nn.utils.skip_init(type(module), **arguments(module), dtype=torch.float64)
    twin.weight.data = weight
    sums = double(twin, (x - x_grid.zero_point).to(torch.float64))
    bias = 0.0 if module.bias is None else module.bias.detach().double().reshape(shape)
    return sums.detach().round() * scale + bias


def arguments(module: nn.Module) -> dict[str, object]:
    if isinstance(module, nn.Linear):
        return {"in_features": module.in_features, "out_features": module.out_features, "bias": False}
    names = ["in_channels", "out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"]
    return {name: getattr(module, name) for name in names} | {"bias": False}
