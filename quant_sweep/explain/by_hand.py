"""A few numbers carried through a layer one at a time, with every intermediate result, so that a reader can check them.

The sum is made from the codes of its own window, in Python's whole numbers, and not read off the accumulator tensor.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from quant_sweep.arithmetic.fixed_point import INT32_MAX, INT32_MIN, FixedPoint, multiply
from quant_sweep.engines.lowering import Value
from quant_sweep.explain.carried import Carried, Requantization, Stage
from quant_sweep.explain.dataflow import node_of
from quant_sweep.explain.integer_layer import IntegerLayer
from quant_sweep.explain.recording import Recording
from quant_sweep.explain.window import terms_of


def carry_some(integer: IntegerLayer, recording: Recording) -> tuple[Carried, ...]:
    """Choose a few outputs of a recorded batch, always the same, and carry them through."""
    return tuple(_carry(why, place, integer, recording) for why, place in choose(integer, recording).items())


def choose(integer: IntegerLayer, recording: Recording) -> dict[str, tuple[int, ...]]:
    """Places in the output of the first image that show what can happen, by why each was chosen."""
    step = integer.dataflow.step
    real = recording.before_rounding(step.out)[:1]
    everywhere = torch.ones_like(real, dtype=torch.bool)
    if step.out.grid is None:
        return _distinct(
            ("the largest", _extreme(real, everywhere, 1.0)),
            ("the median", _extreme(real, everywhere, 0.5)),
            ("the smallest", _extreme(real, everywhere, 0.0)),
        )
    assert integer.lowest is not None
    assert integer.highest is not None
    residual = None if step.residual is None else recording.codes(step.residual)[:1].expand_as(real)
    codes = integer.before_clamp(integer.accumulate(recording.codes(step.x)[:1]), residual)
    above, below = codes > integer.highest, codes < integer.lowest
    rectified = math.isfinite(step.limits[0])
    typical = ~above & ~below & (codes != integer.output_zero_point)
    return _distinct(
        ("typical: the median of what is not zero", _extreme(real, typical, 0.5)),
        ("the largest", _extreme(codes.double(), everywhere, 1.0)),
        ("the highest that still fits the grid", _extreme(codes.double(), ~above, 1.0)),
        ("cut off by the ReLU" if rectified else "below the grid", _extreme(codes.double(), below, 0.5)),
    )


def _distinct(*found: tuple[str, tuple[int, ...] | None]) -> dict[str, tuple[int, ...]]:
    """Each place once, for the first reason it was found for."""
    reasons: dict[tuple[int, ...], str] = {}
    for why, place in found:
        if place is not None:
            reasons.setdefault(place, why)
    return {why: place for place, why in reasons.items()}


def _extreme(values: Tensor, among: Tensor, fraction: float) -> tuple[int, ...] | None:
    """Where the value lies that this share of those chosen does not exceed; the first of equal ones, None of none."""
    places = among.flatten().nonzero().flatten()
    if len(places) == 0:
        return None
    ordered = values.flatten()[places].sort()
    wanted = ordered.values[round(fraction * (len(places) - 1))]
    first = places[values.flatten()[places] == wanted][0]
    return tuple(int(index) for index in torch.unravel_index(first, values.shape))


def _carry(why: str, place: tuple[int, ...], integer: IntegerLayer, recording: Recording) -> Carried:
    dataflow = integer.dataflow
    step, channel = dataflow.step, place[dataflow.channel_axis]
    terms = tuple(terms_of(dataflow, place, integer, recording))
    products = sum(term.product for term in terms)
    correction = integer.zero_point * int(integer.weight_sums[channel])
    bias_code = int(integer.bias[channel])
    accumulator = products - correction + bias_code
    on_grid = step.out.grid is not None
    requantization = _requantize(accumulator, place, integer, recording) if on_grid else None
    real = (
        accumulator * float(integer.scale[channel])
        if requantization is None
        else float(_scale(step.out)) * (requantization.code - integer.output_zero_point)
    )
    engine = recording.engine_codes(step.out)
    return Carried(
        why=why,
        place=place,
        terms=terms,
        products=products,
        correction=correction,
        bias=float(integer.bias_in_float[channel]),
        bias_code=bias_code,
        accumulator=accumulator,
        requantization=requantization,
        real=real,
        simulated=float(recording.before_rounding(step.out)[place]),
        simulated_code=int(recording.simulated_codes(step.out)[place]) if on_grid else None,
        engine_code=None if engine is None else int(engine[place]),
        original=float(recording.original[node_of(step.out)][place]),
        after=tuple(
            _stage(dataflow.labels[behind.out.name], behind.out, place, recording) for behind in dataflow.after
        ),
    )


def _requantize(
    accumulator: int, place: tuple[int, ...], integer: IntegerLayer, recording: Recording
) -> Requantization:
    step, channel = integer.dataflow.step, place[integer.dataflow.channel_axis]
    assert integer.factor is not None
    assert integer.lowest is not None
    assert integer.highest is not None
    factor = FixedPoint(integer.factor.multiplier[channel], integer.factor.shift[channel])
    product = int(multiply(torch.tensor(max(INT32_MIN, min(INT32_MAX, accumulator))), factor))
    residual_code = residual_product = None
    if step.residual is not None:
        code = recording.codes(step.residual).expand_as(recording.before_rounding(step.out))[place]
        residual_code, residual_product = int(code), int(integer.residual_in_steps_of_output(code))
    before_clamp = product + (residual_product or 0) + integer.output_zero_point
    return Requantization(
        factor=float(integer.scale[channel]) / float(_scale(step.out)),
        multiplier=int(factor.multiplier),
        shift=int(factor.shift),
        product=product,
        residual_code=residual_code,
        residual_product=residual_product,
        before_clamp=before_clamp,
        code=max(integer.lowest, min(integer.highest, before_clamp)),
    )


def _stage(step: str, value: Value, place: tuple[int, ...], recording: Recording) -> Stage:
    code = None if value.grid is None else int(recording.codes(value)[place])
    real = float(recording.before_rounding(value)[place])
    return Stage(step, real, code, float(recording.original[node_of(value)][place]))


def _scale(value: Value) -> Tensor:
    assert value.grid is not None
    return value.grid.scale.double()
