"""A layer in the arithmetic of the engine `integer`, taken apart: every number between the codes it reads and writes.

    acc = 2^k * sum u_x q_w - 2^k * zero_x * sum q_w + b_q        b_q = round(b / unit), unit = scale_x scale_w / 2^k
    y   = round(acc * M) + zero_y, clamped                        M = unit / scale_y, in fixed point

u = q - qmin is a code as the engine stores it, zero the stored code of 0.0. With a residual both terms are rounded to
2^-12 steps of the output, added, and rounded once more. A result that is read in float is round(acc * unit / s) units
of s, one s for all channels.

`engines.integer.layers` does all this; here nothing is computed again. Where that engine refuses a layer (codes of more
than 8 bits), its sums are whole numbers of any size, and the rest is left to the simulation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.fixed_point import multiply
from quant_sweep.engines.integer.layers import Accumulator, Logits, Requantized, layer_kernel
from quant_sweep.engines.integer.stored import Stored
from quant_sweep.engines.lowering import check_weights, why_unsupported
from quant_sweep.errors import InputError
from quant_sweep.explain.dataflow import Dataflow
from quant_sweep.graph import QuantGraph


@final
@dataclass(frozen=True, eq=False)
class Stages:
    """What a batch becomes on its way; whole numbers, all shaped like the layer's output unless said otherwise.

    Attributes:
        sums: sum u_x q_w.
        accumulator: with zero-point and bias; where the engine refuses the layer, with the zero-point alone.
        scaled: acc * M, rounded to steps of the output, to fine steps if there is a residual, or to units of the
            logits; None where the engine refuses the layer.
        residual: what is added in fine steps, shaped like the residual; None where nothing is.
        steps: of the output above 0.0, before the clamp; None where the result is read in float.
        codes: that are written, in the grid's own numbers; None where the result is read in float.
        real: what `codes`, or else the accumulator, stand for; float64. Where the engine refuses the layer, with bias
            and residual, before it is cut off and rounded.
    """

    sums: Tensor
    accumulator: Tensor
    scaled: Tensor | None
    residual: Tensor | None
    steps: Tensor | None
    codes: Tensor | None
    real: Tensor


@final
@dataclass(frozen=True, eq=False)
class IntegerLayer:
    """A layer with the kernel that computes it.

    Attributes:
        dataflow: the layer.
        weight: codes, int64, shaped like the weight.
        scale: scale_x * scale_w, float64 (out,).
        source: how the codes that it reads are stored.
        kernel: the engine's; None where the engine refuses the layer.
        refusal: why; "" where it does not.
    """

    dataflow: Dataflow
    weight: Tensor
    scale: Tensor
    source: Stored
    kernel: Requantized | Logits | None
    refusal: str

    @classmethod
    def of(cls, graph: QuantGraph, dataflow: Dataflow) -> IntegerLayer:
        weight = quantize(dataflow.weight, dataflow.weight_grid).to(torch.int64)
        scale = (dataflow.x_grid.scale.double() * dataflow.weight_grid.scale.double()).expand(len(weight))
        kernel, refusal = _kernel(graph, dataflow)
        return cls(dataflow, weight, scale, Stored.of(dataflow.x_grid), kernel, refusal)

    @property
    def accumulate(self) -> Accumulator | None:
        return None if self.kernel is None else self.kernel.accumulate

    @property
    def weight_sums(self) -> Tensor:
        """sum q_w of each output channel, (out,)."""
        return self.weight.flatten(1).sum(dim=1)

    @property
    def ends(self) -> tuple[int, int] | None:
        """Lowest and highest code that is written, in the grid's own numbers; None where there is no such clamp."""
        if not isinstance(self.kernel, Requantized):
            return None
        lowest, highest = self.kernel.clamp
        qmin = self.kernel.target.grid.spec.qmin
        return lowest + qmin, highest + qmin

    @property
    def shifts(self) -> Tensor:
        """k of each output channel, (out,); 0 where the engine refuses the layer."""
        if self.accumulate is None:
            return torch.zeros(len(self.weight), dtype=torch.int64)
        return -self.accumulate.places.flatten()

    def run(self, x: Tensor, residual: Tensor | None) -> Stages:
        """All stages of a batch.

        Args:
            x, residual: codes in the grids' own numbers; None if nothing is added.
        """
        if self.kernel is None:
            return self._run_exactly(x, residual)
        u = (x - self.source.grid.spec.qmin).to(torch.uint8)
        sums = self.kernel.accumulate.sums(u)
        complete = self.kernel.accumulate.complete(sums)
        scaled = multiply(complete, self.kernel.factor)
        if isinstance(self.kernel, Logits):
            logits = self.kernel.rescaled(complete)
            return Stages(sums, complete, logits, None, None, None, logits.double() * self.kernel.scale)
        target, stored, added = self.kernel.target, None, None
        if self.kernel.residual is not None:
            assert residual is not None
            source, factor = self.kernel.residual
            stored = (residual - source.grid.spec.qmin).to(torch.uint8)
            added = multiply(source.counts(stored), factor)
        steps = self.kernel.steps(complete, stored)
        codes = target.codes(target.write(steps, self.kernel.clamp))
        real = (codes.double() - float(target.grid.zero_point)) * target.scale
        return Stages(sums, complete, scaled, added, steps, codes, real)

    def _run_exactly(self, x: Tensor, residual: Tensor | None) -> Stages:
        """float64 holds every whole number up to 2**53."""
        counts = (x.to(torch.int64) - int(self.source.grid.zero_point)).double()
        accumulator = self.dataflow.step.operation(counts, self.weight.double()).to(torch.int64)
        sums = accumulator + self.along_channels(self.source.zero * self.weight_sums)
        real = accumulator * self.along_channels(self.scale)
        if self.dataflow.bias is not None:
            real = real + self.along_channels(self.dataflow.bias.double())
        if residual is not None and self.dataflow.step.residual is not None:
            assert self.dataflow.step.residual.grid is not None
            real = real + dequantize(residual, self.dataflow.step.residual.grid)
        return Stages(sums, accumulator, None, None, None, None, real)

    def worst_case(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Smallest and largest that any input could make of `sums` and of the accumulator."""
        rows = self.weight.flatten(1)
        above, below = rows.clamp(min=0).sum(dim=1), rows.clamp(max=0).sum(dim=1)
        ends = [self.source.steps * sums for sums in (below, above)]  # codes are stored from 0 on
        if self.accumulate is None:
            final = [sums - self.source.zero * self.weight_sums for sums in ends]
        else:
            final = [self.accumulate.complete(self.along_channels(sums)).flatten() for sums in ends]
        return (int(ends[0].min()), int(ends[1].max())), (int(final[0].min()), int(final[1].max()))

    def along_channels(self, values: Tensor) -> Tensor:
        """View values per output channel so that they broadcast over an output."""
        return values.reshape(-1, *[1] * (self.weight.dim() - 2))


def bits_needed(lowest: int, highest: int) -> int:
    """Bits of the narrowest two's complement register that holds both, sign included."""
    return 1 + max((value if value >= 0 else ~value).bit_length() for value in (lowest, highest))


def _kernel(graph: QuantGraph, dataflow: Dataflow) -> tuple[Requantized | Logits | None, str]:
    """The engine's kernel, or why there is none."""
    step, constants = dataflow.step, graph.graph.constants
    alone = replace(graph, weights=tuple(q for q in graph.weights if q.name == step.weight))
    values = [value for value in (step.x, step.residual, step.out) if value is not None]
    specs = {value.name: value.grid.spec for value in values if value.grid is not None}
    reason = why_unsupported(alone, {**specs, step.weight: dataflow.weight_grid.spec})
    if reason is not None:
        return None, reason
    try:
        check_weights("integer", alone, {step.weight: dataflow.weight_grid})
        build = Logits if step.out.grid is None else layer_kernel
        return build(step, constants, dataflow.weight_grid), ""
    except InputError as error:
        return None, str(error)
