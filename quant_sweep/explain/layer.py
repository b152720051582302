"""What happens in one layer, with this network's own numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import final

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import choose_weight_qparams
from quant_sweep.errors import InputError
from quant_sweep.explain.by_hand import Carried, carry_some
from quant_sweep.explain.dataflow import Dataflow, find_layer
from quant_sweep.explain.explanation import Agreement, Channels, Explanation, Register
from quant_sweep.explain.integer_layer import IntegerLayer, Stages
from quant_sweep.explain.recording import Recording, record
from quant_sweep.explain.steps import Extent, Intermediate, formulas, intermediates, stored_input
from quant_sweep.explain.tensor_errors import Activation, Weight
from quant_sweep.explain.tensor_study import WIDTHS, TensorStudy, sqnr_db, study
from quant_sweep.graph import QuantGraph
from quant_sweep.graph.operations import Convolution
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import Observer


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A quantized network that can be explained.

    Attributes:
        graph: the float network with its quantizers.
        qparams: the grid of every tensor, by its name.
        summaries: what calibration kept, by the name of each activation quantizer.
        observer, weight_observer: that chose the grids.
        network: what an engine built of them.
        engine: its name.
    """

    graph: QuantGraph
    qparams: Mapping[str, QParams]
    summaries: Mapping[str, Summary]
    observer: Observer
    weight_observer: Observer
    network: nn.Module
    engine: str


@torch.no_grad()
def explain(subject: Subject, layer: str, batches: Iterable[Tensor], setting: Mapping[str, str]) -> Explanation:
    """Follow images through one layer, and study its tensors.

    Args:
        layer: name of a convolution or linear layer.
        batches: normalised images, float32 (n, ...) each, on the CPU; at least one.
        setting: what to call all this, for the reader.

    Raises:
        InputError: there is no such layer, or no batch.
    """
    dataflow = find_layer(subject.graph, subject.qparams, layer)
    integer = IntegerLayer.of(subject.graph, dataflow)
    images, seen, numbers = 0, list[_Batch](), tuple[Carried, ...]()
    for batch in batches:
        recording = record(subject.graph, subject.qparams, subject.network, batch, dataflow)
        stages = integer.run(
            recording.codes(dataflow.step.x),
            None if dataflow.step.residual is None else recording.codes(dataflow.step.residual),
        )
        numbers = numbers or carry_some(integer, stages, recording)
        seen.append(_Batch.of(integer, stages, recording, subject.engine))
        images += len(batch)
    if not seen:
        raise InputError("images=0: at least one batch is needed")
    whole = reduce(_Batch.__or__, seen)
    return Explanation(
        layer=layer,
        kind=_kind(dataflow),
        setting=setting,
        refusal=integer.refusal,
        images=images,
        terms=dataflow.weight[0].numel(),
        stored=stored_input(integer),
        steps=whole.steps,
        registers=_registers(integer, whole),
        numbers=numbers,
        agreements=whole.agreements,
        weight=_study_weight(subject, dataflow),
        in_steps=_in_steps(dataflow),
        channels=_channels(subject, dataflow),
        activations=_study_activations(subject, dataflow),
    )


def _kind(dataflow: Dataflow) -> str:
    """What layer it is; of a convolution, what is not the default."""
    operation, sizes = dataflow.step.operation, " × ".join(map(str, dataflow.weight.shape))
    if not isinstance(operation, Convolution):
        return f"linear layer, weight {sizes}"
    axes, name = len(operation.stride), "transposed convolution" if operation.transposed else "convolution"
    parts = {
        "stride": None if set(operation.stride) == {1} else operation.stride,
        "padding": operation.padding if any(map(any, operation.padding)) else None,
        "dilation": None if set(operation.dilation) == {1} else operation.dilation,
        "groups": None if operation.groups == 1 else operation.groups,
        "output padding": operation.output_padding if any(operation.output_padding) else None,
    }
    shown = [f"{part} {_sizes(value)}" for part, value in parts.items() if value is not None]
    return ", ".join([f"{axes}-d {name}", f"weight {sizes}", *shown])


def _sizes(value: object) -> str:
    """One size for all axes once; (before, after) with a plus."""
    if not isinstance(value, tuple):
        return str(value)
    if isinstance(value[0], tuple):
        value = tuple(size[0] if size[0] == size[1] else f"{size[0]}+{size[1]}" for size in value)
    return str(value[0]) if len(set(value)) == 1 else " × ".join(map(str, value))


@final
@dataclass(frozen=True)
class _Batch:
    """What is kept of one batch."""

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


def _study_weight(subject: Subject, dataflow: Dataflow) -> TensorStudy:
    grid = dataflow.weight_grid
    values = Weight(dataflow.weight, grid.spec.channel_axis)
    # Every channel is a search of its own, so observers are asked for one width only.
    return study(dataflow.step.weight, values, grid.spec, subject.weight_observer, grid, widths=())


def _in_steps(dataflow: Dataflow) -> tuple[float, ...]:
    """Weights in units of their own channel's scale: there all channels have the same grid, the whole numbers."""
    scale = dataflow.weight_grid.scale.expand(len(dataflow.weight))
    return tuple((dataflow.weight.flatten(1) / scale[:, None]).flatten().tolist())


def _channels(subject: Subject, dataflow: Dataflow) -> Channels:
    rows, grid = dataflow.weight.flatten(1), dataflow.weight_grid
    by_axis = {axis: _weight_sqnr(subject, dataflow, axis) for axis in (None, 0)}
    return Channels(
        lo=tuple(rows.amin(dim=1).tolist()),
        hi=tuple(rows.amax(dim=1).tolist()),
        scale=tuple(grid.scale.reshape(-1).tolist()),
        limit=tuple(grid.hi.reshape(-1).tolist()),
        per_tensor=by_axis[None],
        per_channel=by_axis[0],
    )


def _weight_sqnr(subject: Subject, dataflow: Dataflow, axis: int | None) -> dict[int, float]:
    """By bit width, what the weight observer reaches."""
    name = dataflow.step.weight
    alone = replace(subject.graph, weights=tuple(q for q in subject.graph.weights if q.name == name))
    spec, values = dataflow.weight_grid.spec, Weight(dataflow.weight, axis)
    specs = {bits: replace(spec, bits=bits, channel_axis=axis) for bits in sorted({*WIDTHS, spec.bits})}
    grids = {b: choose_weight_qparams(alone, {name: s}, subject.weight_observer)[name] for b, s in specs.items()}
    return {bits: sqnr_db(sum(values.errors(grid))) for bits, grid in grids.items()}


def _study_activations(subject: Subject, dataflow: Dataflow) -> dict[str, TensorStudy]:
    parts = {"input": dataflow.step.x, "residual": dataflow.step.residual, "output": dataflow.on_grid}
    found = {}
    for part, value in parts.items():
        name = None if value is None else dataflow.quantizer(value)
        if name is not None and name in subject.summaries:
            seen, grid = Activation(subject.summaries[name]), subject.qparams[name]
            found[part] = study(name, seen, grid.spec, subject.observer, grid)
    return found
