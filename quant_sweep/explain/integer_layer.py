"""A layer in whole numbers, from the codes it reads to the codes it writes.

    acc = sum q_x q_w - zero_point_x * sum q_w + bias_q          bias_q = round(bias / (scale_x scale_w)), int32
    q_y = clamp(zero_point_y + acc * M, lowest, highest)         M = scale_x scale_w / scale_y = M0 * 2**-shift

A residual r is brought to the steps of y by a factor of its own, scale_r / scale_y, and added before the clamp. The
ReLU is the lower end of the clamp. Weights have zero_point 0, so no other term is left of eq. 7.

Source: Jacob et al. 2018, arXiv:1712.05877, sections 2.2 to 2.4.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.fixed_point import INT32_MAX, INT32_MIN, FixedPoint, fixed_point_of, multiply
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import bounds
from quant_sweep.explain.dataflow import Dataflow


@final
@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """Everything that a layer multiplies and adds, as whole numbers; all tensors int64 unless said otherwise.

    Attributes:
        weight: codes, shaped like the weight.
        bias: int32 values, (out,).
        bias_in_float: what they stand for, float32 (out,).
        scale: of the accumulator, scale_x * scale_w, float64 (out,).
        factor: M of each output channel; None where the result stays in float.
        residual_factor: of the residual; None where there is none.
        lowest, highest: codes at which the output is cut off; None where the result stays in float.
    """

    dataflow: Dataflow
    weight: Tensor
    bias: Tensor
    bias_in_float: Tensor
    scale: Tensor
    factor: FixedPoint | None
    residual_factor: FixedPoint | None
    lowest: int | None
    highest: int | None

    @classmethod
    def of(cls, dataflow: Dataflow) -> IntegerLayer:
        module, out, residual = dataflow.module, dataflow.step.out.grid, dataflow.step.residual
        channels = len(dataflow.weight)
        scale = (dataflow.x_grid.scale.double() * dataflow.weight_grid.scale.double()).expand(channels)
        in_float = torch.zeros(channels) if module.bias is None else module.bias.detach()
        bias = torch.round(in_float.double() / scale).clamp(INT32_MIN, INT32_MAX).to(torch.int64)
        lowest, highest = (None, None) if out is None else bounds(out, dataflow.step.limits)
        return cls(
            dataflow,
            quantize(dataflow.weight, dataflow.weight_grid).to(torch.int64),
            bias,
            in_float,
            scale,
            None if out is None else fixed_point_of(scale / out.scale.double()),
            None if out is None or residual is None else fixed_point_of(_scale(residual.grid) / out.scale.double()),
            lowest,
            highest,
        )

    @property
    def output_zero_point(self) -> int:
        return 0 if self.dataflow.step.out.grid is None else int(self.dataflow.step.out.grid.zero_point)

    @property
    def zero_point(self) -> int:
        """Of the input."""
        return int(self.dataflow.x_grid.zero_point)

    @property
    def weight_sums(self) -> Tensor:
        """sum q_w of each output channel, (out,)."""
        return self.weight.flatten(1).sum(dim=1)

    @torch.no_grad()
    def accumulate(self, x: Tensor) -> Tensor:
        """The accumulator: exact, for float64 holds every whole number up to 2**53.

        Args:
            x: codes of the input, (n, ...).

        Returns:
            int64, shaped like the layer's output; padding adds zero-points, which count as 0.
        """
        layer = copy.deepcopy(self.dataflow.module).double()
        layer.weight = nn.Parameter(self.weight.double())
        layer.bias = nn.Parameter(self.bias.double())
        return torch.round(layer((x.to(torch.int64) - self.zero_point).double())).to(torch.int64)

    def products(self, accumulator: Tensor) -> Tensor:
        """sum q_x q_w alone, as it stands in the register before zero-point and bias are put right; int64."""
        return accumulator + self.along_channels(self.zero_point * self.weight_sums - self.bias, accumulator)

    def in_steps_of_output(self, accumulator: Tensor) -> Tensor:
        """acc * M, int64; an accumulator that overflows its 32 bits counts as saturated."""
        assert self.factor is not None
        held = accumulator.clamp(INT32_MIN, INT32_MAX)
        multiplier, shift = (self.along_channels(part, held) for part in (self.factor.multiplier, self.factor.shift))
        return multiply(held, FixedPoint(multiplier, shift))

    def residual_in_steps_of_output(self, residual: Tensor) -> Tensor:
        """(q_r - zero_point_r) * scale_r / scale_y, int64, shaped like the codes given."""
        grid = None if self.dataflow.step.residual is None else self.dataflow.step.residual.grid
        assert grid is not None
        assert self.residual_factor is not None
        return multiply(residual.to(torch.int64) - int(grid.zero_point), self.residual_factor)

    def before_clamp(self, accumulator: Tensor, residual: Tensor | None) -> Tensor:
        """Output codes as if the grid had no ends, int64."""
        codes = self.in_steps_of_output(accumulator) + self.output_zero_point
        return codes if residual is None else codes + self.residual_in_steps_of_output(residual)

    def worst_case(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest that any input could make of `products` and of the accumulator."""
        spec = self.dataflow.x_grid.spec
        with_zero_point = self._extremes(spec.qmin, spec.qmax, torch.zeros_like(self.bias))
        final = self._extremes(spec.qmin - self.zero_point, spec.qmax - self.zero_point, self.bias)
        return with_zero_point, final

    def _extremes(self, lowest: int, highest: int, bias: Tensor) -> tuple[int, int]:
        rows = self.weight.flatten(1)
        above, below = rows.clamp(min=0).sum(dim=1), rows.clamp(max=0).sum(dim=1)
        smallest, largest = above * lowest + below * highest + bias, above * highest + below * lowest + bias
        return int(smallest.min()), int(largest.max())

    def along_channels(self, values: Tensor, out: Tensor) -> Tensor:
        """View values per output channel so that they broadcast over an output; () stays ()."""
        if values.dim() == 0:
            return values
        shape = [1] * out.dim()
        shape[self.dataflow.channel_axis] = -1
        return values.reshape(shape)


def bits_needed(lowest: int, highest: int) -> int:
    """Bits of the narrowest two's complement register that holds both, sign included."""
    return 1 + max((value if value >= 0 else ~value).bit_length() for value in (lowest, highest))


def _scale(grid: QParams | None) -> Tensor:
    assert grid is not None
    return grid.scale.double()
