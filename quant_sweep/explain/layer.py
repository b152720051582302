"""One layer of a quantized network: its arithmetic, and what observers make of its tensors."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import sqnr_db
from quant_sweep.calibration.one_pass import choose_weight_qparams
from quant_sweep.explain.dataflow import Dataflow, find_layer
from quant_sweep.explain.follow import Arithmetic, follow
from quant_sweep.explain.recording import Subject
from quant_sweep.explain.tensor_errors import Activation, Weight
from quant_sweep.explain.tensor_study import WIDTHS, TensorStudy, study
from quant_sweep.graph.operations import Operation


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
        operation: the layer itself, and shape the shape of its weight.
        calls: how often the network calls it; the arithmetic is that of the first call.
        setting: what was asked for, as on the command line.
        arithmetic: what images become in it.
        weight: the weight and what observers make of it; `in_steps` its histogram in units of its scale.
        channels: the weight channel by channel.
        activations: input, residual and output, as far as they are quantized, by their part.
    """

    layer: str
    operation: Operation
    shape: tuple[int, ...]
    calls: int
    setting: Mapping[str, str]
    arithmetic: Arithmetic
    weight: TensorStudy
    in_steps: tuple[float, ...]
    channels: Channels
    activations: Mapping[str, TensorStudy]


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
    return Explanation(
        layer=layer,
        operation=dataflow.step.operation,
        shape=tuple(dataflow.weight.shape),
        calls=dataflow.calls,
        setting=setting,
        arithmetic=follow(subject, dataflow, batches),
        weight=_study_weight(subject, dataflow),
        in_steps=_in_steps(dataflow),
        channels=_channels(subject, dataflow),
        activations=_study_activations(subject, dataflow),
    )


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
    return {bits: sqnr_db(1.0, sum(values.errors(grid))).item() for bits, grid in grids.items()}


def _study_activations(subject: Subject, dataflow: Dataflow) -> dict[str, TensorStudy]:
    parts = {"input": dataflow.step.x, "residual": dataflow.step.residual, "output": dataflow.on_grid}
    found = {}
    for part, value in parts.items():
        name = None if value is None else dataflow.quantizer(value)
        if name is not None and name in subject.summaries:
            seen, grid = Activation(subject.summaries[name]), subject.qparams[name]
            found[part] = study(name, seen, grid.spec, subject.observer, grid)
    return found
