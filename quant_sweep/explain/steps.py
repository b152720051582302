"""The dataflow of one layer as a table: every intermediate with its shape, type, width and the values seen in it."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import dequantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.integer.layers import Logits, Requantized
from quant_sweep.engines.lowering import Step
from quant_sweep.explain.dataflow import clamp_name
from quant_sweep.explain.integer_layer import IntegerLayer, Stages, bits_needed
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

    def times(self, factor: float) -> Extent:
        """In another unit; factor > 0."""
        return Extent(self.lowest * factor, self.highest * factor)


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
        scale: real units of one, lowest and highest of the channels; None in float.
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


def formulas(integer: IntegerLayer) -> tuple[str, str]:
    """Of the sum of products and of the accumulator."""
    products, zero = f"Σ {stored_input(integer)} · q_w", integer.source.zero
    centred = f"{products} − {zero} · Σ q_w" if zero else products
    bias = " + b_q" if integer.dataflow.bias is not None and not integer.refusal else ""
    if not integer.shifts.any():
        return products, f"acc = {centred}{bias}"
    if not zero:
        return products, f"acc = 2^k · {products}{bias}"
    if int(integer.shifts.min()) >= 0:
        return products, f"acc = 2^k · ({centred}){bias}"
    return products, f"acc = 2^k · {products} − 2^k · {zero} · Σ q_w{bias}"  # each product rounded where k < 0


def _exact_formula(integer: IntegerLayer) -> str:
    """Of a result that the simulation rounds, from an accumulator without bias."""
    bias = "" if integer.dataflow.bias is None else " + b"
    return f"acc · s_x · s_w{bias}{'' if integer.dataflow.step.residual is None else ' + r'}"


def stored_input(integer: IntegerLayer) -> str:
    """What the engine multiplies: the code itself where the grid begins at 0."""
    return "u_x" if integer.source.grid.spec.qmin else "q_x"


def intermediates(integer: IntegerLayer, stages: Stages, recording: Recording) -> tuple[Intermediate, ...]:
    """All lines for one batch, in the order of computation."""
    flow = integer.dataflow
    codes = recording.codes(flow.step.x)
    lines = [
        _real("input", "as it comes", recording.before_rounding(flow.step.x)),
        _codes("input codes", "`q_x = clamp(round(x / s_x) + z_x)`", codes, flow.x_grid),
        *_stored(integer, codes),
        *_parameters(integer),
        *_sums(integer, stages, codes),
        *_results(integer, stages, recording),
    ]
    for later in flow.after:
        lines.append(_after(flow.labels[later.out.name], later, recording))
    return tuple(lines)


def _stored(integer: IntegerLayer, codes: Tensor) -> Iterator[Intermediate]:
    """What the engine keeps in place of codes that do not begin at 0."""
    spec = integer.source.grid.spec
    if spec.qmin:
        formula = f"`u_x = q_x {'+' if spec.qmin < 0 else '−'} {abs(spec.qmin)}`, as the engine keeps it"
        dtype, shape = storage(replace(spec, signed=False)), tuple(codes.shape[1:])
        seen, zero = Extent.of(codes - spec.qmin), integer.source.zero
        yield Intermediate("stored input", formula, shape, dtype, spec.bits, None, seen, None, None, zero)


def _parameters(integer: IntegerLayer) -> Iterator[Intermediate]:
    flow, grid = integer.dataflow, integer.dataflow.weight_grid
    note = "in float, BatchNorm folded in where there is one" if flow.folded else "in float, as trained"
    kind = "per channel" if grid.scale.dim() else "per tensor"
    yield _parameter("weight", note, flow.weight)
    codes = _codes("weight codes", f"`q_w = clamp(round(w / s_w))`, {kind}", integer.weight, grid)
    yield replace(codes, shape=tuple(integer.weight.shape))
    if flow.bias is None:
        return
    yield _parameter("bias", note, flow.bias)
    if integer.accumulate is not None:
        shifts, bias = integer.shifts, integer.accumulate.bias.flatten()
        formula = f"`b_q = round(b / unit)`, `unit = s_x · s_w{' / 2^k' if shifts.any() else ''}`{_range_of_k(shifts)}"
        line = _register("bias code", formula, (0, *bias.shape), Extent.of(bias))
        yield replace(line, scale=Extent.of(integer.accumulate.unit))


def _range_of_k(shifts: Tensor) -> str:
    if not shifts.any():
        return ""
    lowest, highest = int(shifts.min()), int(shifts.max())
    return f", `k = {lowest}`" if lowest == highest else f", `k` from {lowest} to {highest}"


def _sums(integer: IntegerLayer, stages: Stages, codes: Tensor) -> Iterator[Intermediate]:
    x, weight = Extent.of(codes - integer.source.grid.spec.qmin), Extent.of(integer.weight)
    corners = [a * b for a in (x.lowest, x.highest) for b in (weight.lowest, weight.highest)]
    window, shape = (0, *integer.weight.shape[1:]), tuple(stages.sums.shape)
    of_sum, of_accumulator = formulas(integer)
    each = f"`{stored_input(integer)} · q_w`, {integer.weight[0].numel()} for each output"
    yield _register("products", each, window, Extent(min(corners), max(corners)))
    yield _register("sum of products", f"`{of_sum}`", shape, Extent.of(stages.sums))
    line = _register("accumulator", f"`{of_accumulator}`", shape, Extent.of(stages.accumulator))
    scale = integer.along_channels(integer.scale) if integer.accumulate is None else integer.accumulate.unit
    yield replace(line, real=Extent.of(stages.accumulator * scale), scale=Extent.of(scale))


def _results(integer: IntegerLayer, stages: Stages, recording: Recording) -> Iterator[Intermediate]:
    out = integer.dataflow.step.out
    if isinstance(integer.kernel, Requantized):
        yield from _requantized(integer.kernel, integer, stages, recording)
    elif isinstance(integer.kernel, Logits) and stages.scaled is not None:
        formula = f"`round(acc · M)`, `M = unit / s_y`, one `s_y` for all channels, {_range_of_m(integer.kernel)}"
        line = _register("on one scale", formula, tuple(stages.scaled.shape), Extent.of(stages.scaled))
        yield replace(line, real=Extent.of(stages.real), scale=Extent(integer.kernel.scale, integer.kernel.scale))
        yield _real("dequantized", "`s_y · round(acc · M)`, in float from here", stages.real)
    else:
        real = recording.before_rounding(out)
        yield _real(
            "simulated", f"`acc · s_x · s_w{'' if integer.dataflow.bias is None else ' + b'}`, in float32", real
        )
        if out.grid is not None:
            codes = recording.simulated_codes(out)
            yield _codes("output codes", "`q_y = clamp(round(y / s_y) + z_y)`", codes, out.grid)
            yield _real("dequantized", "`s_y · (q_y − z_y)`, what its readers see", dequantize(codes, out.grid))


def _requantized(
    kernel: Requantized, integer: IntegerLayer, stages: Stages, recording: Recording
) -> Iterator[Intermediate]:
    step, shape = integer.dataflow.step, tuple(stages.accumulator.shape)
    assert step.out.grid is not None
    assert stages.scaled is not None
    assert stages.steps is not None
    assert stages.codes is not None
    fine = kernel.fine_steps
    unit = "" if fine == 1 else f" · {_power_of_2(fine)}"
    formula = f"`round(acc · M)`, `M = unit / s_y{unit}`, {_range_of_m(kernel)}"
    name = "in steps of the output" if fine == 1 else "in fine steps of the output"
    yield _in_steps(name, formula, stages.scaled, step.out.grid, fine)
    if step.residual is not None and stages.residual is not None:
        assert step.residual.grid is not None
        yield _codes("residual codes", "`q_r`, what is added", recording.codes(step.residual), step.residual.grid)
        formula = f"`round((q_r − z_r) · s_r / s_y{unit})`"
        yield _in_steps("residual in fine steps", formula, stages.residual, step.out.grid, fine)
        yield _in_steps(
            "sum in steps of the output", f"`round((… + …) / {_power_of_2(fine)})`", stages.steps, step.out.grid, 1
        )
    open_ended = stages.steps + int(step.out.grid.zero_point)
    yield _register("before the clamp", "`+ z_y`", shape, Extent.of(open_ended))
    lowest, highest = integer.ends or (0, 0)
    note = _clamp_note(step.limits)
    yield _codes("output codes", f"`q_y = clamp(…, {lowest}, {highest})`{note}", stages.codes, step.out.grid)
    yield _real("dequantized", "`s_y · (q_y − z_y)`, what its readers see", stages.real)


def _range_of_m(kernel: Requantized | Logits) -> str:
    lowest, highest = (f"{end:.3g}" for end in torch.aminmax(kernel.factor.real))
    return f"`M` = {lowest}" if lowest == highest else f"`M` from {lowest} to {highest}"


def _in_steps(step: str, formula: str, values: Tensor, grid: QParams, fine: int) -> Intermediate:
    """Steps of a grid, or parts of them."""
    seen, unit = Extent.of(values), float(grid.scale) / fine
    return replace(_register(step, formula, tuple(values.shape), seen), real=seen.times(unit), scale=Extent(unit, unit))


def _power_of_2(number: int) -> str:
    """As a power, 2^12; 1 is 2^0."""
    return f"2^{number.bit_length() - 1}"


def _clamp_note(limits: tuple[float, float]) -> str:
    if not any(map(math.isfinite, limits)):
        return ""
    return ", the ReLU is its lower end" if limits == (0.0, math.inf) else f", the {clamp_name(*limits)} is this clamp"


def _after(label: str, step: Step, recording: Recording) -> Intermediate:
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


def _register(step: str, formula: str, shape: tuple[int, ...], codes: Extent) -> Intermediate:
    """Whole numbers in the accumulator's register; the first axis of `shape` does not count."""
    held = (step, formula, shape[1:], "int32", _ACCUMULATOR_BITS)
    return Intermediate(*held, None, codes, _needed(codes), None, None)


def _needed(codes: Extent) -> int:
    return bits_needed(int(codes.lowest), int(codes.highest))


def storage(spec: QuantSpec) -> str:
    """The type that a program would keep such codes in."""
    return f"{'' if spec.signed else 'u'}int{8 if spec.bits <= 8 else 16}"
