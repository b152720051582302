"""A few outputs of a layer with every intermediate result, so that a reader can check them with a pocket calculator.

The stages are those of `integer_layer`, at one place. The products are found apart from them, from the window of the
output.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.engines.integer.layers import Logits
from quant_sweep.engines.lowering import Value
from quant_sweep.explain.integer_layer import IntegerLayer, Stages
from quant_sweep.explain.recording import Recording

_Place = tuple[int, ...]


@final
@dataclass(frozen=True)
class Term:
    """One product of a sum: an input and a weight, each as it was and as its code.

    Attributes:
        place: of the input, (channel, row, column); None where a zero of the padding stands in for one.
        x_code: as it is stored, u = q - qmin.
    """

    place: _Place | None
    x: float
    x_code: int
    weight: float
    weight_code: int

    @property
    def product(self) -> int:
        return self.x_code * self.weight_code


@final
@dataclass(frozen=True)
class Requantization:
    """From the accumulator to the output's code, or to an integer logit.

    Attributes:
        factor: M, what is to be multiplied with.
        multiplier, shift: the same in integers, M = multiplier * 2**-(31 + shift).
        product: acc * M, rounded; in fine steps if something is added.
        residual_code, residual_product: of what is added, the code in the grid's own numbers; None where nothing is.
        steps: of the output above 0.0; None for a logit, as are the two below.
        before_clamp: steps + zero-point.
        code: what is written.
    """

    factor: float
    multiplier: int
    shift: int
    product: int
    residual_code: int | None
    residual_product: int | None
    steps: int | None
    before_clamp: int | None
    code: int | None


@final
@dataclass(frozen=True)
class Stage:
    """A value after one of the steps that follow the layer: simulated, its code if it lies on a grid, and in the float
    network."""

    step: str
    real: float
    code: int | None
    original: float


@final
@dataclass(frozen=True)
class Example:
    """One output value.

    Attributes:
        why: it was chosen.
        place: sample, channel, row, column; or sample, feature.
        terms: all of its sum.
        sum: of the products u_x q_w.
        shift: k; sums are multiplied by 2**k before a bias is added, so that its rounding does not show.
        shifted, correction: sum * 2**k, and zero_x * sum q_w * 2**k, rounded.
        bias, bias_code: in real units and as an integer; the latter None where it is added in float.
        accumulator: shifted - correction + bias_code.
        requantization: None where the engine `integer` refuses the layer.
        real: what the accumulator or the written code stands for; with the bias.
        simulated: the same in float32 arithmetic, not rounded to a code.
        simulated_code: the code that it is rounded to; None where the result stays in float.
        engine_code: what the engine of the run wrote; None where it has no codes or the result stays in float.
        original: the same value in the float network.
        after: the steps that follow the layer.
    """

    why: str
    place: _Place
    terms: tuple[Term, ...]
    sum: int
    shift: int
    shifted: int
    correction: int
    bias: float
    bias_code: int | None
    accumulator: int
    requantization: Requantization | None
    real: float
    simulated: float
    simulated_code: int | None
    engine_code: int | None
    original: float
    after: tuple[Stage, ...]


def examples_of(integer: IntegerLayer, stages: Stages, recording: Recording) -> tuple[Example, ...]:
    """A few outputs of a recorded batch, always the same ones, with all intermediate results.

    Args:
        stages: of that batch.
    """
    return tuple(
        _example(why, place, integer, stages, recording) for why, place in _chosen(integer, stages, recording).items()
    )


def _chosen(integer: IntegerLayer, stages: Stages, recording: Recording) -> dict[str, _Place]:
    """Places in the output of the first image that show what can happen, by why each was chosen."""
    step = integer.dataflow.step
    real = recording.before_rounding(step.out)[:1]
    everywhere = torch.ones_like(real, dtype=torch.bool)
    if stages.steps is None or integer.ends is None:
        return _distinct(
            ("the largest", _extreme(real, everywhere, 1.0)),
            ("the median", _extreme(real, everywhere, 0.5)),
            ("the smallest", _extreme(real, everywhere, 0.0)),
        )
    zero_point = _zero_point(step.out)
    codes = stages.steps[:1] + zero_point
    lowest, highest = integer.ends
    above, below = codes > highest, codes < lowest
    rectified = math.isfinite(step.limits[0])
    typical = ~above & ~below & (codes != zero_point)
    return _distinct(
        ("typical: the median of what is not zero", _extreme(real, typical, 0.5)),
        ("the largest", _extreme(codes.double(), everywhere, 1.0)),
        ("the highest that still fits the grid", _extreme(codes.double(), ~above, 1.0)),
        ("cut off by the ReLU" if rectified else "below the grid", _extreme(codes.double(), below, 0.5)),
    )


def _distinct(*found: tuple[str, _Place | None]) -> dict[str, _Place]:
    """Each place once, for the first reason it was found for."""
    reasons: dict[_Place, str] = {}
    for why, place in found:
        if place is not None:
            reasons.setdefault(place, why)
    return {why: place for place, why in reasons.items()}


def _extreme(values: Tensor, among: Tensor, fraction: float) -> _Place | None:
    """Where the value lies that this share of those chosen does not exceed; the first of equal ones, None of none."""
    places = among.flatten().nonzero().flatten()
    if len(places) == 0:
        return None
    ordered = values.flatten()[places].sort()
    wanted = ordered.values[round(fraction * (len(places) - 1))]
    first = places[values.flatten()[places] == wanted][0]
    return tuple(int(index) for index in torch.unravel_index(first, values.shape))


def _example(why: str, place: _Place, integer: IntegerLayer, stages: Stages, recording: Recording) -> Example:
    dataflow, accumulate = integer.dataflow, integer.accumulate
    step, channel = dataflow.step, place[dataflow.channel_axis]
    on_grid = step.out.grid is not None
    total, correction = int(stages.sums[place]), integer.source.zero * int(integer.weight_sums[channel])
    shifted, bias_code = total, None
    if accumulate is not None:
        shifted = int(accumulate.shifted(stages.sums).expand_as(stages.sums)[place])
        correction, bias_code = int(accumulate.correction.flatten()[channel]), int(accumulate.bias.flatten()[channel])
    engine = recording.engine_codes(step.out)
    return Example(
        why=why,
        place=place,
        terms=terms_of(integer, place, recording),
        sum=total,
        shift=int(integer.shifts[channel]),
        shifted=shifted,
        correction=correction,
        bias=0.0 if dataflow.bias is None else float(dataflow.bias[channel]),
        bias_code=bias_code,
        accumulator=int(stages.accumulator[place]),
        requantization=_requantization(place, integer, stages, recording),
        real=float(stages.real[place]),
        simulated=float(recording.before_rounding(step.out)[place]),
        simulated_code=int(recording.simulated_codes(step.out)[place]) if on_grid else None,
        engine_code=None if engine is None else int(engine[place]),
        original=float(recording.in_float(step.out)[place]),
        after=tuple(_stage(dataflow.labels[later.out.name], later.out, place, recording) for later in dataflow.after),
    )


def _requantization(
    place: _Place, integer: IntegerLayer, stages: Stages, recording: Recording
) -> Requantization | None:
    kernel, step, channel = integer.kernel, integer.dataflow.step, place[integer.dataflow.channel_axis]
    if kernel is None or stages.scaled is None:
        return None
    unit = float(kernel.accumulate.unit.flatten()[channel])
    target = kernel.scale if isinstance(kernel, Logits) else kernel.target.scale / kernel.fine_steps
    steps = None if stages.steps is None else int(stages.steps[place])
    residual_code = residual_product = None
    if step.residual is not None and stages.residual is not None:
        shape = stages.accumulator.shape
        residual_code = int(recording.codes(step.residual).expand(shape)[place])
        residual_product = int(stages.residual.expand(shape)[place])
    return Requantization(
        factor=unit / target,
        multiplier=int(kernel.factor.multiplier.flatten()[channel]),
        shift=int(kernel.factor.shift.flatten()[channel]),
        product=int(stages.scaled[place]),
        residual_code=residual_code,
        residual_product=residual_product,
        steps=steps,
        before_clamp=None if steps is None else steps + _zero_point(step.out),
        code=None if stages.codes is None else int(stages.codes[place]),
    )


def _zero_point(value: Value) -> int:
    assert value.grid is not None
    return int(value.grid.zero_point)


def _stage(step: str, value: Value, place: _Place, recording: Recording) -> Stage:
    code = None if value.grid is None else int(recording.codes(value)[place])
    return Stage(step, float(recording.before_rounding(value)[place]), code, float(recording.in_float(value)[place]))


def terms_of(integer: IntegerLayer, place: _Place, recording: Recording) -> tuple[Term, ...]:
    """The products of one sum, in the order of the weight's entries.

    Args:
        place: of the output: image, channel, row, column; or image, feature.
    """
    dataflow, image, channel = integer.dataflow, place[0], place[integer.dataflow.channel_axis]
    x = recording.before_rounding(dataflow.step.x)[image]
    codes = recording.codes(dataflow.step.x)[image] - integer.source.grid.spec.qmin
    weights = zip(dataflow.weight[channel].flatten().tolist(), integer.weight[channel].flatten().tolist(), strict=True)
    inputs = _inputs_of(integer, x.shape, place)
    terms = []
    for entry, (weight, weight_code) in enumerate(weights):
        where = inputs.get(entry)
        value, code = (0.0, integer.source.zero) if where is None else (float(x[where]), int(codes[where]))
        terms.append(Term(where, value, code, weight, weight_code))
    return tuple(terms)


def _inputs_of(integer: IntegerLayer, shape: _Place, place: _Place) -> dict[int, _Place]:
    """Which input each entry of the weight is multiplied by for one output, by the entry's position.

    The derivative of an output with respect to an input is the weight between them; so the weights are numbered.

    Args:
        shape: of the input, without the axis of the images.
    """
    weight = integer.weight
    numbered = torch.arange(1, weight[0].numel() + 1, dtype=torch.float64).reshape(1, *weight.shape[1:])
    with torch.enable_grad():
        x = torch.zeros(1, *shape, dtype=torch.float64, requires_grad=True)
        integer.dataflow.step.operation(x, numbered.expand(weight.shape))[(0, *place[1:])].backward()
    assert x.grad is not None
    numbers = x.grad[0].round().to(torch.int64)
    return {int(numbers[tuple(at)]) - 1: tuple(at) for at in numbers.nonzero().tolist()}
