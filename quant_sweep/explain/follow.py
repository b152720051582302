"""Images through one layer: what the arithmetic of a quantized network makes of them, as plain numbers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import final

import torch
from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.explain.by_hand import Example, examples_of
from quant_sweep.explain.dataflow import Dataflow
from quant_sweep.explain.integer_layer import IntegerLayer, Stages, bits_needed
from quant_sweep.explain.recording import Recording, Subject, record
from quant_sweep.explain.steps import Extent, Intermediate, formulas, intermediates, stored_input


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
class Arithmetic:
    """What a layer computes, from the codes it reads to what it writes.

    Attributes:
        refusal: why the engine `integer` does not compute this layer; "" if it does, and all whole numbers are its own.
        images: how many passed through the quantized network.
        terms: products in the sum of one output.
        stored: what is multiplied with weight codes: q_x, or u_x = q_x - qmin where the grid does not begin at 0.
        steps: the dataflow.
        registers: how many bits the sums take.
        numbers: a few outputs with all intermediate results.
        agreements: of the engine `integer` with the simulation, and with the engine of the run; empty where there is
            nothing to compare.
    """

    refusal: str
    images: int
    terms: int
    stored: str
    steps: tuple[Intermediate, ...]
    registers: tuple[Register, ...]
    numbers: tuple[Example, ...]
    agreements: tuple[Agreement, ...]


@torch.no_grad()
def follow(subject: Subject, dataflow: Dataflow, batches: Iterable[Tensor]) -> Arithmetic:
    """Compute a layer on the codes that it reads in the quantized network.

    Args:
        batches: normalised images, float32 (n, ...) each, on the CPU; at least one.

    Raises:
        InputError: there is no batch.
    """
    integer = IntegerLayer.of(subject.graph, dataflow)
    images, seen, numbers = 0, list[_Batch](), tuple[Example, ...]()
    for batch in batches:
        recording = record(subject, batch, dataflow)
        stages = integer.run(*recording.codes_read())
        numbers = numbers or examples_of(integer, stages, recording)
        seen.append(_Batch.of(integer, stages, recording, subject.engine))
        images += len(batch)
    if not seen:
        raise InputError("images=0: at least one batch is needed")
    whole = reduce(_Batch.__or__, seen)
    return Arithmetic(
        refusal=integer.refusal,
        images=images,
        terms=dataflow.weight[0].numel(),
        stored=stored_input(integer),
        steps=whole.steps,
        registers=_registers(integer, whole),
        numbers=numbers,
        agreements=whole.agreements,
    )


@final
@dataclass(frozen=True)
class _Batch:
    """What is kept of a batch."""

    steps: tuple[Intermediate, ...]
    sums: Extent
    accumulator: Extent
    agreements: tuple[Agreement, ...]

    @classmethod
    def of(cls, integer: IntegerLayer, stages: Stages, recording: Recording, engine: str) -> _Batch:
        return cls(
            intermediates(integer, stages, recording),
            Extent.of(stages.sums),
            Extent.of(stages.accumulator),
            tuple(_agreements(stages, recording, engine)),
        )

    def __or__(self, other: _Batch) -> _Batch:
        return _Batch(
            tuple(a | b for a, b in zip(self.steps, other.steps, strict=True)),
            self.sums | other.sums,
            self.accumulator | other.accumulator,
            tuple(a | b for a, b in zip(self.agreements, other.agreements, strict=True)),
        )


def _agreements(stages: Stages, recording: Recording, engine: str) -> list[Agreement]:
    out = recording.dataflow.step.out
    if stages.codes is None:
        return []
    others = [("simulate", recording.simulated_codes(out)), (engine, recording.engine_codes(out))]
    found = []
    for name, other in others:
        if other is not None:
            apart = (stages.codes - other).abs()
            found.append(Agreement(name, apart.numel(), int(apart.count_nonzero()), int(apart.max())))
    return found


def _registers(integer: IntegerLayer, whole: _Batch) -> tuple[Register, ...]:
    worst_sums, worst_accumulator = integer.worst_case()
    seen = [(int(extent.lowest), int(extent.highest)) for extent in (whole.sums, whole.accumulator)]
    sums, accumulator = formulas(integer)
    return (Register(sums, seen[0], worst_sums), Register(accumulator, seen[1], worst_accumulator))
