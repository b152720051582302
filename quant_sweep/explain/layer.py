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
from quant_sweep.explain.by_hand import carry_some
from quant_sweep.explain.carried import Carried
from quant_sweep.explain.dataflow import Dataflow, find_layer
from quant_sweep.explain.errors_of import Activation, Weight
from quant_sweep.explain.explanation import Agreement, Channels, Explanation, Register
from quant_sweep.explain.integer_layer import IntegerLayer
from quant_sweep.explain.recording import Recording, record
from quant_sweep.explain.steps import Extent, Intermediate, intermediates
from quant_sweep.explain.tensor_study import WIDTHS, TensorStudy, sqnr_db, study
from quant_sweep.graph import QuantGraph
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import Observer


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A quantized network that can be explained.

    Attributes:
        graph: the float network with its points.
        qparams: the grid of every tensor, by its name.
        summaries: what calibration kept, by the name of each activation point.
        observer, weight_observer: who chose the grids.
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
    """Carry images through one layer and study its tensors.

    Args:
        layer: name of a convolution or linear layer.
        batches: normalised images, float32 (n, channels, height, width) each, on the CPU; at least one.
        setting: what to call all this, for the reader.

    Raises:
        InputError: there is no such layer, or no batch.
    """
    dataflow = find_layer(subject.graph, subject.qparams, layer)
    integer = IntegerLayer.of(dataflow)
    images, seen, numbers = 0, list[_Batch](), tuple[Carried, ...]()
    for batch in batches:
        recording = record(subject.graph, subject.qparams, subject.network, batch, dataflow)
        numbers = numbers or carry_some(integer, recording)
        seen.append(_Batch.of(integer, recording, subject.engine))
        images += len(batch)
    if not seen:
        raise InputError("images=0: at least one batch is needed")
    whole = reduce(_Batch.__or__, seen)
    return Explanation(
        layer=layer,
        kind=str(dataflow.module),
        setting=setting,
        images=images,
        terms=dataflow.weight[0].numel(),
        steps=whole.steps,
        registers=_registers(integer, whole),
        numbers=numbers,
        agreements=whole.agreements,
        weight=_study_weight(subject, dataflow, layer),
        in_steps=_in_steps(dataflow),
        channels=_channels(subject, dataflow, layer),
        activations=_study_activations(subject, dataflow),
    )


@final
@dataclass(frozen=True)
class _Batch:
    """What is kept of one batch."""

    steps: tuple[Intermediate, ...]
    products: Extent
    accumulator: Extent
    agreements: tuple[Agreement, ...]

    @classmethod
    def of(cls, integer: IntegerLayer, recording: Recording, engine: str) -> _Batch:
        accumulator = integer.accumulate(recording.codes(integer.dataflow.step.x))
        return cls(
            intermediates(integer, recording),
            Extent.of(integer.products(accumulator)),
            Extent.of(accumulator),
            tuple(_agreements(integer, recording, accumulator, engine)),
        )

    def __or__(self, other: _Batch) -> _Batch:
        return _Batch(
            tuple(a | b for a, b in zip(self.steps, other.steps, strict=True)),
            self.products | other.products,
            self.accumulator | other.accumulator,
            tuple(a | b for a, b in zip(self.agreements, other.agreements, strict=True)),
        )


def _agreements(integer: IntegerLayer, recording: Recording, accumulator: Tensor, engine: str) -> list[Agreement]:
    step = integer.dataflow.step
    if step.out.grid is None:
        return []
    residual = None if step.residual is None else recording.codes(step.residual).expand_as(accumulator)
    codes = integer.before_clamp(accumulator, residual).clamp(integer.lowest, integer.highest)
    others = [("simulate", recording.simulated_codes(step.out)), (engine, recording.engine_codes(step.out))]
    found = []
    for name, other in others:
        if other is not None:
            apart = (codes - other).abs()
            found.append(Agreement(name, apart.numel(), int(apart.count_nonzero()), int(apart.max())))
    return found


def _registers(integer: IntegerLayer, whole: _Batch) -> tuple[Register, ...]:
    with_zero_point, final = integer.worst_case()
    seen = [(int(extent.lowest), int(extent.highest)) for extent in (whole.products, whole.accumulator)]
    bias = "" if integer.dataflow.module.bias is None else " + b_q"
    return (
        Register("Σ q_x · q_w", seen[0], with_zero_point),
        Register(f"acc = Σ q_x · q_w − z_x · Σ q_w{bias}", seen[1], final),
    )


def _study_weight(subject: Subject, dataflow: Dataflow, layer: str) -> TensorStudy:
    grid = dataflow.weight_grid
    values = Weight(dataflow.weight, grid.spec.channel_axis)
    # Every channel is a search of its own, so observers are asked for one width only.
    return study(f"{layer}.weight", values, grid.spec, subject.weight_observer, grid, widths=())


def _in_steps(dataflow: Dataflow) -> tuple[float, ...]:
    """Weights in units of their own channel's scale: there all channels have the same grid, the whole numbers."""
    scale = dataflow.weight_grid.scale.expand(len(dataflow.weight))
    return tuple((dataflow.weight.flatten(1) / scale[:, None]).flatten().tolist())


def _channels(subject: Subject, dataflow: Dataflow, layer: str) -> Channels:
    rows, grid = dataflow.weight.flatten(1), dataflow.weight_grid
    by_axis = {axis: _weight_sqnr(subject, dataflow, layer, axis) for axis in (None, 0)}
    return Channels(
        lo=tuple(rows.amin(dim=1).tolist()),
        hi=tuple(rows.amax(dim=1).tolist()),
        scale=tuple(grid.scale.reshape(-1).tolist()),
        limit=tuple(grid.hi.reshape(-1).tolist()),
        per_tensor=by_axis[None],
        per_channel=by_axis[0],
    )


def _weight_sqnr(subject: Subject, dataflow: Dataflow, layer: str, axis: int | None) -> dict[int, float]:
    """By bit width, what the weight observer reaches."""
    points = tuple(point for point in subject.graph.weights if point.module == layer)
    alone, name = replace(subject.graph, weights=points), f"{layer}.weight"
    spec, values = dataflow.weight_grid.spec, Weight(dataflow.weight, axis)
    specs = {bits: replace(spec, bits=bits, channel_axis=axis) for bits in sorted({*WIDTHS, spec.bits})}
    grids = {b: choose_weight_qparams(alone, {name: s}, subject.weight_observer)[name] for b, s in specs.items()}
    return {bits: sqnr_db(sum(values.errors(grid))) for bits, grid in grids.items()}


def _study_activations(subject: Subject, dataflow: Dataflow) -> dict[str, TensorStudy]:
    parts = {"input": dataflow.step.x, "residual": dataflow.step.residual, "output": dataflow.written}
    found = {}
    for part, value in parts.items():
        name = None if value is None else dataflow.point(value)
        if name is not None and name in subject.summaries:
            seen, grid = Activation(subject.summaries[name]), subject.qparams[name]
            found[part] = study(name, seen, grid.spec, subject.observer, grid)
    return found
