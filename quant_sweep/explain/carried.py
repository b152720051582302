"""One output value of a layer with every intermediate result on its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final


@final
@dataclass(frozen=True)
class Term:
    """One product of a sum: an input and a weight, each as it was and as its code.

    Attributes:
        place: of the input, (channel, row, column); None where padding stands in for one.
    """

    place: tuple[int, ...] | None
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
    """From the accumulator to the output's code.

    Attributes:
        factor: M, what is to be multiplied with.
        multiplier, shift: the same in integers, M = multiplier * 2**-(31 + shift).
        product: acc * M, rounded.
        residual_code, residual_product: of what is added, None where nothing is.
        before_clamp: product + residual + zero-point.
        code: what is written.
    """

    factor: float
    multiplier: int
    shift: int
    product: int
    residual_code: int | None
    residual_product: int | None
    before_clamp: int
    code: int


@final
@dataclass(frozen=True)
class Stage:
    """What a value is after a step behind the layer: simulated, as a code if it lies on a grid, and in the float
    network."""

    step: str
    real: float
    code: int | None
    original: float


@final
@dataclass(frozen=True)
class Carried:
    """One output value.

    Attributes:
        why: it was chosen.
        place: image, channel, row, column; or image, feature.
        terms: all of its sum.
        products: sum q_x q_w.
        correction: zero_point_x * sum q_w, which is subtracted.
        bias, bias_code: in real units and as int32.
        accumulator: products - correction + bias_code.
        requantization: None where the result stays in float.
        real: what the accumulator or the written code stands for.
        simulated: the same in float32 arithmetic, not rounded to a code.
        simulated_code: the code that it is rounded to; None where the result stays in float.
        engine_code: what an integer engine wrote; None where none ran or the result stays in float.
        original: the same value in the float network.
        after: what happens to it behind the layer.
    """

    why: str
    place: tuple[int, ...]
    terms: tuple[Term, ...]
    products: int
    correction: int
    bias: float
    bias_code: int
    accumulator: int
    requantization: Requantization | None
    real: float
    simulated: float
    simulated_code: int | None
    engine_code: int | None
    original: float
    after: tuple[Stage, ...]
