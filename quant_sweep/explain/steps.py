"""The dataflow of one layer as a table: every intermediate with its shape, type, width and the values seen in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import dequantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.lowering import Step
from quant_sweep.explain.integer_layer import IntegerLayer, bits_needed
from quant_sweep.explain.recording import Recording

_ACCUMULATOR_BITS = 32


@final
@dataclass(frozen=True)
class Extent:
    """Smallest and largest of what was seen."""

    lowest: float
    highest: float

    @classmethod
    def of(cls, values: Tensor) -> Extent:
        lowest, highest = torch.aminmax(values.detach())
        return cls(lowest.item(), highest.item())

    def __or__(self, other: Extent) -> Extent:
        return Extent(min(self.lowest, other.lowest), max(self.highest, other.highest))


@final
@dataclass(frozen=True)
class Intermediate:
    """One line of the dataflow.

    Attributes:
        step: what happens.
        formula: how, in a few symbols.
        shape: of one image, or of the parameter itself.
        dtype: that holds it.
        bits: of a code, or of the register.
        real: values in real units; None where the numbers have none.
        codes: whole numbers; None in float.
        needed: bits that those codes take; None where the width of the grid says it.
        scale: of the grid or of the accumulator, lowest and highest of the channels; None in float.
        zero_point: None where there is none.
    """

    step: str
    formula: str
    shape: tuple[int, ...]
    dtype: str
    bits: int
    real: Extent | None
    codes: Extent | None
    needed: int | None
    scale: Extent | None
    zero_point: int | None

    def __or__(self, other: Intermediate) -> Intermediate:
        """The same of two batches."""
        real = self.real if self.real is None or other.real is None else self.real | other.real
        codes = self.codes if self.codes is None or other.codes is None else self.codes | other.codes
        needed = None if self.needed is None or codes is None else _needed(codes)
        return replace(self, real=real, codes=codes, needed=needed)


def intermediates(integer: IntegerLayer, recording: Recording) -> tuple[Intermediate, ...]:
    """All lines for one batch, in the order of computation."""
    flow = integer.dataflow
    step, x = flow.step, recording.before_rounding(flow.step.x)
    x_codes = recording.codes(step.x)
    accumulator = integer.accumulate(x_codes)
    lines = [
        _real("input", "as it comes", x),
        _codes("input codes", "`q_x = clamp(round(x / s_x) + z_x)`", x_codes, flow.x_grid),
        *_parameters(integer),
        _register("products", f"`q_x · q_w`, {flow.weight[0].numel()} for each output", *_products(integer, x_codes)),
        _register("sum of products", "`Σ q_x · q_w`", accumulator.shape, Extent.of(integer.products(accumulator))),
        _accumulator(integer, accumulator),
    ]
    if step.out.grid is None:
        lines.append(_real("dequantized", "`acc · s_x · s_w`, in float from here", recording.before_rounding(step.out)))
    else:
        lines += _written(integer, accumulator, recording)
    for behind in flow.after:
        lines.append(_behind(flow.labels[behind.out.name], behind, recording))
    return tuple(lines)


def _parameters(integer: IntegerLayer) -> list[Intermediate]:
    flow, grid = integer.dataflow, integer.dataflow.weight_grid
    note = "in float, a BatchNorm behind it folded in" if flow.folded else "in float, as trained"
    kind = "per channel" if grid.scale.dim() else "per tensor"
    weight = _codes("weight codes", f"`q_w = clamp(round(w / s_w))`, {kind}", integer.weight, grid)
    lines = [_parameter("weight", note, flow.weight), _as_parameter(weight, integer.weight)]
    if flow.module.bias is not None:
        shape, scale = (0, *integer.bias.shape), Extent.of(integer.scale)
        held = _register("bias code", "`b_q = round(b / (s_x · s_w))`", shape, Extent.of(integer.bias))
        lines += [_parameter("bias", note, integer.bias_in_float), replace(held, scale=scale)]
    return lines


def _products(integer: IntegerLayer, x_codes: Tensor) -> tuple[tuple[int, ...], Extent]:
    """Shape of the window, and what its products could be at most with the codes that were seen."""
    x, weight = Extent.of(x_codes), Extent.of(integer.weight)
    corners = [a * b for a in (x.lowest, x.highest) for b in (weight.lowest, weight.highest)]
    return (0, *integer.weight.shape[1:]), Extent(min(corners), max(corners))


def _accumulator(integer: IntegerLayer, accumulator: Tensor) -> Intermediate:
    bias = " + b_q" if integer.dataflow.module.bias is not None else ""
    formula = f"`acc = Σ q_x · q_w − z_x · Σ q_w{bias}`"
    line = _register("accumulator", formula, accumulator.shape, Extent.of(accumulator))
    real = Extent.of(accumulator * integer.along_channels(integer.scale, accumulator))
    return replace(line, real=real, scale=Extent.of(integer.scale))


def _written(integer: IntegerLayer, accumulator: Tensor, recording: Recording) -> list[Intermediate]:
    step = integer.dataflow.step
    assert step.out.grid is not None
    assert integer.factor is not None
    scaled, factor = Extent.of(integer.in_steps_of_output(accumulator)), integer.factor.real
    formula = f"`round(acc · M)`, `M = s_x · s_w / s_y`, {factor.min():.3g} to {factor.max():.3g}"
    line = _register("in steps of the output", formula, accumulator.shape, scaled)
    scale = Extent.of(step.out.grid.scale)
    lines = [replace(line, scale=scale, real=Extent(scaled.lowest * scale.lowest, scaled.highest * scale.lowest))]
    residual = None
    if step.residual is not None:
        residual = recording.codes(step.residual).expand_as(accumulator)
        assert step.residual.grid is not None
        lines.append(_codes("residual codes", "`q_r`, what is added", residual, step.residual.grid))
        added = integer.residual_in_steps_of_output(residual)
        lines.append(
            _register("residual in steps of the output", "`(q_r − z_r) · s_r / s_y`", added.shape, Extent.of(added))
        )
    open_ended = integer.before_clamp(accumulator, residual)
    lines.append(_register("before the clamp", "`+ z_y`", open_ended.shape, Extent.of(open_ended)))
    codes = open_ended.clamp(integer.lowest, integer.highest)
    clamp = f"`q_y = clamp(…, {integer.lowest}, {integer.highest})`" + _clamp_note(integer)
    meant = _real("dequantized", "`s_y · (q_y − z_y)`, what its readers see", dequantize(codes, step.out.grid))
    return [*lines, _codes("output codes", clamp, codes, step.out.grid), meant]


def _clamp_note(integer: IntegerLayer) -> str:
    lowest, highest = integer.dataflow.step.limits
    if lowest == 0.0:
        return ", the ReLU is its lower end" if highest == float("inf") else ", the activation is the clamp"
    return ""


def _behind(label: str, step: Step, recording: Recording) -> Intermediate:
    if step.out.grid is None:
        return _real(label, "in float", recording.before_rounding(step.out))
    return _codes(label, "rounded", recording.codes(step.out), step.out.grid)


def _real(step: str, formula: str, values: Tensor) -> Intermediate:
    seen = Extent.of(values)
    return Intermediate(step, formula, tuple(values.shape[1:]), "float32", 32, seen, None, None, None, None)


def _parameter(step: str, formula: str, values: Tensor) -> Intermediate:
    return _real(step, formula, values[None])


def _codes(step: str, formula: str, codes: Tensor, grid: QParams) -> Intermediate:
    seen, spec = Extent.of(codes), grid.spec
    if grid.scale.dim():
        real = Extent(float(grid.lo.min()), float(grid.hi.max()))
    else:
        real = Extent(*(float(grid.scale) * (end - int(grid.zero_point)) for end in (seen.lowest, seen.highest)))
    zero_point = int(grid.zero_point.flatten()[0])
    shape, scale = tuple(codes.shape[1:]), Extent.of(grid.scale)
    return Intermediate(step, formula, shape, storage(spec), spec.bits, real, seen, None, scale, zero_point)


def _as_parameter(line: Intermediate, values: Tensor) -> Intermediate:
    return replace(line, shape=tuple(values.shape))


def _register(step: str, formula: str, shape: tuple[int, ...], codes: Extent) -> Intermediate:
    """Whole numbers in the accumulator's register."""
    held = (step, formula, tuple(shape[1:]), "int32", _ACCUMULATOR_BITS)
    return Intermediate(*held, None, codes, _needed(codes), None, None)


def _needed(codes: Extent) -> int:
    return bits_needed(int(codes.lowest), int(codes.highest))


def storage(spec: QuantSpec) -> str:
    """The type that a program would keep such codes in."""
    return f"{'' if spec.signed else 'u'}int{8 if spec.bits <= 8 else 16}"
