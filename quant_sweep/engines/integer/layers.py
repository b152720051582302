"""Convolution and linear layers in integers: sums of products, bias, requantization, clamp.

With q_x = u_x - z_x steps above 0.0 and weight codes q_w (zero-point 0), the sum over a window is

    sum q_x q_w + bias = sum u_x q_w - z_x sum q_w + bias = sum u_x q_w + frozen

where `frozen` is one int32 per output channel, made when the network is built (Jacob et al. 2018, eq. 7 to 9, and the
int32 bias at scale_x * scale_w of section 2.4). Padding is with z_x. The sum becomes steps of the output grid by the
factor M = scale_x scale_w / scale_y as a fixed-point number, and the ReLU is the lower end of the clamp.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.fixed_point import fixed_point_of, multiply, rounding_right_shift
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.integer.stored import Stored, add_up, fine_factor
from quant_sweep.engines.lowering import Kernel, Layer
from quant_sweep.engines.spread import direct_form, spread_out
from quant_sweep.graph.operations import Convolution, Linear, padding_of_torch

_CONVOLVE = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_LOGIT_BITS = 29
_BIAS_STEPS = 256  # a bias is rounded to this part of an output step, or finer


@final
@dataclass(frozen=True, eq=False)
class Accumulator:
    """The int32 sums of a layer, bias included.

    Attributes:
        sums: codes, uint8, to sums of u_x q_w, int32 (n, out, ...).
        frozen: what is added, int32 (out, 1, ...).
        places: int64 like frozen; sums are shifted so far to the right, or to the left, before `frozen` is added. See
            `accumulator`.
        unit: real units of one, float64 like frozen.
        largest: bound of what comes out, in real units, float64 like frozen.
    """

    sums: Callable[[Tensor], Tensor]
    frozen: Tensor
    places: Tensor
    unit: Tensor
    largest: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        sums = self.sums(u)
        return (_shifted(sums.to(torch.int64), self.places) + self.frozen).to(torch.int32)


def layer_kernel(step: Layer, constants: Mapping[str, Tensor], grid: QParams) -> Kernel:
    """clamp(layer(x) + residual), in codes.

    Args:
        constants: of the float network, by name.
        grid: of the layer's weight.
    """
    target = Stored.of(step.out.grid)
    clamp = target.within(step.limits)
    accumulate = accumulator(step, constants, grid, target.scale / _BIAS_STEPS)
    if step.residual is None:
        factor = fixed_point_of(accumulate.unit / target.scale)
        return lambda u: target.write(multiply(accumulate(u), factor), clamp)
    source = Stored.of(step.residual.grid)
    factor, residual_factor = fine_factor(accumulate.unit, target), fine_factor(source.scale, target)

    def with_residual(u: Tensor, residual: Tensor) -> Tensor:
        steps = add_up((accumulate(u), factor), (source.counts(residual), residual_factor))
        return target.write(steps, clamp)

    return with_residual


@final
class Logits:
    """A layer whose result is read in float: its sums on one scale for all channels, int32.

    Attributes:
        scale: real units of one.
    """

    def __init__(self, step: Layer, constants: Mapping[str, Tensor], grid: QParams) -> None:
        self._accumulate = accumulator(step, constants, grid, resolution=0.0)
        largest = float(self._accumulate.largest.max())
        self.scale = largest / 2**_LOGIT_BITS if largest > 0 else 1.0
        self._factor = fixed_point_of(self._accumulate.unit / self.scale)

    def __call__(self, u: Tensor) -> Tensor:
        return multiply(self._accumulate(u), self._factor).to(torch.int32)


def accumulator(step: Layer, constants: Mapping[str, Tensor], grid: QParams, resolution: float) -> Accumulator:
    """The sums of a layer over the codes that it reads; weights and bias are frozen here.

    The unit of the sums is scale_x * scale_w, and as a rule that of the bias too. Two cases need another one, which the
    sums are shifted to: weights so small against the bias that it would overflow (the scale of a channel that training
    switched off can be anything), and codes of so few bits that rounding the bias to it would show in the output.

    Args:
        grid: of the weight.
        resolution: real units to which the bias is to be rounded, or finer; as near as 32 bits come to it.
    """
    source = Stored.of(step.x.grid)
    weight = quantize(constants[step.weight], grid)  # int32 (out, in / groups, ...)
    one = torch.ones(len(weight), dtype=torch.float64)
    bias = one * 0 if step.bias is None else constants[step.bias].to(torch.float64)
    unit = one * grid.scale.to(torch.float64) * source.scale
    by_output = weight.to(torch.int64).flatten(1)
    bound = source.steps * by_output.abs().sum(dim=1)
    largest = bound * unit + bias.abs()
    fitting = _exponent(largest / unit / 2**30)
    wanted = _exponent(resolution / unit) - 1 if resolution > 0 else fitting
    places = torch.maximum(fitting, wanted.clamp(max=0))
    unit = torch.ldexp(unit, places)
    places = places.clamp(max=62)  # what is shifted farther is 0 anyway
    frozen = torch.round(bias / unit).to(torch.int64) + _shifted(-source.zero * by_output.sum(dim=1), places)
    shape = (-1, *[1] * (weight.dim() - 2))
    per_channel = (values.reshape(shape) for values in (frozen.to(torch.int32), places, unit, largest))
    return Accumulator(_sums(step.operation, weight, source.zero), *per_channel)


def _exponent(x: Tensor) -> Tensor:
    """The smallest e for which x < 2**e, int64."""
    return torch.frexp(x).exponent.to(torch.int64)


def _shifted(x: Tensor, places: Tensor) -> Tensor:
    """x / 2**places, rounded; int64."""
    return rounding_right_shift(x << (-places).clamp(min=0), places.clamp(min=0))


def _sums(operation: Convolution | Linear, weight: Tensor, zero: int) -> Callable[[Tensor], Tensor]:
    """uint8 codes to int32 sums of codes times `weight`; `zero` is the code of 0.0."""
    if isinstance(operation, Linear):
        return lambda u: F.linear(u.to(torch.int32), weight)
    direct, weight = direct_form(operation, weight)
    convolve, spread = _CONVOLVE[weight.dim() - 2], spread_out(operation, zero)
    kernel, around = _dilated(weight, direct.dilation), padding_of_torch(direct.padding)

    def sums(u: Tensor) -> Tensor:
        padded = pad_with(spread(u), around, zero).to(torch.int32)
        return convolve(padded, kernel, None, direct.stride, 0, 1, direct.groups)  # type: ignore[no-any-return,operator]

    return sums


def pad_with(u: Tensor, padding: list[int], code: int) -> Tensor:
    """torch.nn.functional.pad, which takes its value for a float."""
    return torch.ops.aten.constant_pad_nd(u, padding, code)  # type: ignore[no-any-return]


def _dilated(weight: Tensor, dilation: tuple[int, ...]) -> Tensor:
    """A dilated kernel as a larger one with zeros in it: torch has dilated convolutions of floats only."""
    for axis, step in enumerate(dilation, start=2):
        spread = list(weight.shape)
        spread[axis] = (spread[axis] - 1) * step + 1
        wide = weight.new_zeros(spread)
        wide.index_copy_(axis, torch.arange(weight.shape[axis]) * step, weight)
        weight = wide
    return weight
