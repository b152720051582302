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
from functools import cached_property
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.fixed_point import FixedPoint, fixed_point_of, multiply, rounding_right_shift
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.integer.stored import FINE_BITS, Stored, add_up, fine_factor
from quant_sweep.engines.lowering import Layer
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
        weight: codes, int32 (out, in / groups, ...).
        sums: codes, uint8, to sums of u_x q_w, int32 (n, out, ...).
        places: int64 (out, 1, ...); sums are shifted so far to the right, or to the left, before anything is added. See
            `accumulator`.
        correction: z_x sum q_w, shifted likewise; int64 like places.
        bias: in units of the shifted sums, int64 like places.
        unit: real units of one, float64 like places.
        largest: bound of what comes out, in real units, float64 like places.
    """

    weight: Tensor
    sums: Callable[[Tensor], Tensor]
    places: Tensor
    correction: Tensor
    bias: Tensor
    unit: Tensor
    largest: Tensor

    def __call__(self, u: Tensor) -> Tensor:
        return self.complete(self.sums(u))

    @cached_property
    def frozen(self) -> Tensor:
        """What is added to the shifted sums, int64 like places; within 32 bits."""
        return self.bias - self.correction

    def shifted(self, sums: Tensor) -> Tensor:
        """Sums in the accumulator's units, int64."""
        return _shifted(sums.to(torch.int64), self.places)

    def complete(self, sums: Tensor) -> Tensor:
        """Sums with all that is added to them, int32."""
        return (self.shifted(sums) + self.frozen).to(torch.int32)


@final
@dataclass(frozen=True, eq=False)
class Requantized:
    """A layer that writes codes: clamp(layer(x) + residual). Called with stored codes, it returns stored codes.

    Attributes:
        accumulate: its sums.
        factor: from them to steps of the target; with a residual to fine steps, as `add_up` takes them.
        residual: how its codes are stored, and the factor from them to fine steps; None if nothing is added.
        target: how the result is stored.
        clamp: lowest and highest stored code.
    """

    accumulate: Accumulator
    factor: FixedPoint
    residual: tuple[Stored, FixedPoint] | None
    target: Stored
    clamp: tuple[int, int]

    def __call__(self, u: Tensor, residual: Tensor | None = None) -> Tensor:
        return self.target.write(self.steps(self.accumulate(u), residual), self.clamp)

    @property
    def fine_steps(self) -> int:
        """How many units that `factor` leads to make one step of the target."""
        return 1 if self.residual is None else 2**FINE_BITS

    def steps(self, sums: Tensor, residual: Tensor | None) -> Tensor:
        """Steps of the target above 0.0, from complete sums and stored codes of the residual; int64."""
        if self.residual is None:
            return multiply(sums, self.factor)
        assert residual is not None
        source, factor = self.residual
        return add_up((sums, self.factor), (source.counts(residual), factor))


def layer_kernel(step: Layer, constants: Mapping[str, Tensor], grid: QParams) -> Requantized:
    """The arithmetic of a layer that writes codes; its weight and bias are frozen here.

    Args:
        constants: of the float network, by name.
        grid: of the layer's weight.
    """
    target = Stored.of(step.out.grid)
    clamp = target.within(step.limits)
    accumulate = accumulator(step, constants, grid, target.scale / _BIAS_STEPS)
    if step.residual is None:
        return Requantized(accumulate, fixed_point_of(accumulate.unit / target.scale), None, target, clamp)
    source = Stored.of(step.residual.grid)
    residual = source, fine_factor(source.scale, target)
    return Requantized(accumulate, fine_factor(accumulate.unit, target), residual, target, clamp)


@final
class Logits:
    """A layer whose result is read in float: its sums on one scale for all channels, int32.

    Attributes:
        accumulate: its sums.
        scale: real units of one.
        factor: from the sums to units of that scale.
    """

    def __init__(self, step: Layer, constants: Mapping[str, Tensor], grid: QParams) -> None:
        self.accumulate = accumulator(step, constants, grid, resolution=0.0)
        largest = float(self.accumulate.largest.max())
        self.scale = largest / 2**_LOGIT_BITS if largest > 0 else 1.0
        self.factor = fixed_point_of(self.accumulate.unit / self.scale)

    def __call__(self, u: Tensor) -> Tensor:
        return self.rescaled(self.accumulate(u))

    def rescaled(self, sums: Tensor) -> Tensor:
        """Complete sums on the scale of all channels, int32."""
        return multiply(sums, self.factor).to(torch.int32)


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
    values = (
        places,
        _shifted(source.zero * by_output.sum(dim=1), places),
        torch.round(bias / unit).to(torch.int64),
        unit,
        largest,
    )
    per_channel = (value.reshape(-1, *[1] * (weight.dim() - 2)) for value in values)
    return Accumulator(weight, _sums(step.operation, weight, source.zero), *per_channel)


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
        return convolve(padded, kernel, None, direct.stride, 0, 1, direct.groups)

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
