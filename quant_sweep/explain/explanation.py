"""What there is to show of one layer, as plain numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from quant_sweep.explain.by_hand import Carried
from quant_sweep.explain.integer_layer import bits_needed
from quant_sweep.explain.steps import Intermediate
from quant_sweep.explain.tensor_study import TensorStudy


@final
@dataclass(frozen=True)
class Register:
    """How many bits a sum takes.

    Attributes:
        what: the sum, as a formula.
        seen: smallest and largest over all images and channels.
        worst: the same, whatever the input.
    """

    what: str
    seen: tuple[int, int]
    worst: tuple[int, int]

    @property
    def bits_seen(self) -> int:
        return bits_needed(*self.seen)

    @property
    def bits_worst(self) -> int:
        return bits_needed(*self.worst)


@final
@dataclass(frozen=True)
class Agreement:
    """Output codes of the engine `integer` against those of another engine, from the same inputs.

    Attributes:
        other: name of that engine.
        compared, differing: how many codes.
        largest: difference, in codes.
    """

    other: str
    compared: int
    differing: int
    largest: int

    def __or__(self, more: Agreement) -> Agreement:
        compared, differing = self.compared + more.compared, self.differing + more.differing
        return Agreement(self.other, compared, differing, max(self.largest, more.largest))


@final
@dataclass(frozen=True)
class Channels:
    """The weight channel by channel.

    Attributes:
        lo, hi: smallest and largest weight of each.
        scale: of the grid that is used, one per channel or a single one.
        limit: the largest value on the grid that is used, likewise.
        per_tensor, per_channel: SQNR by bit width, dB, with one scale and with one per channel.
    """

    lo: tuple[float, ...]
    hi: tuple[float, ...]
    scale: tuple[float, ...]
    limit: tuple[float, ...]
    per_tensor: Mapping[int, float]
    per_channel: Mapping[int, float]


@final
@dataclass(frozen=True)
class Explanation:
    """One layer, step by step.

    Attributes:
        layer: its name.
        kind: what layer it is, in a few words.
        setting: what was asked for, as on the command line.
        refusal: why the engine `integer` does not compute this layer; "" if it does, and all whole numbers are its own.
        images: how many passed through the quantized network.
        terms: products in the sum of one output.
        stored: what is multiplied with weight codes: q_x, or u_x = q_x - qmin where the grid does not begin at 0.
        steps: the dataflow.
        registers: how many bits the sums take.
        numbers: a few outputs with all intermediate results.
        agreements: of the engine `integer` with the simulation, and with the engine of the run; empty where there is
            nothing to compare.
        weight: the weight and what observers make of it; `in_steps` its histogram in units of its scale.
        channels: the weight channel by channel.
        activations: input, residual and output, as far as they are quantized, by their part.
    """

    layer: str
    kind: str
    setting: Mapping[str, str]
    refusal: str
    images: int
    terms: int
    stored: str
    steps: tuple[Intermediate, ...]
    registers: tuple[Register, ...]
    numbers: tuple[Carried, ...]
    agreements: tuple[Agreement, ...]
    weight: TensorStudy
    in_steps: tuple[float, ...]
    channels: Channels
    activations: Mapping[str, TensorStudy]
