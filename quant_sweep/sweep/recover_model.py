"""The stage between quantizing and evaluating: the recoveries of a point, each made once and kept on disk.

The file of a recovery stands under all that decides it: weights, images, grids and how they were chosen, the recoveries
before it and the sources. `recovery=[reconstruct,distill]` finds what `recovery=reconstruct` left.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import QuantGraph
from quant_sweep.recovery import OnGrids, Recovered, Step, recover_once, split_off
from quant_sweep.runtime.disk_cache import made_once
from quant_sweep.runtime.tensor_file import read_tensors, write_tensors
from quant_sweep.sweep.content_key import content_key
from quant_sweep.sweep.prepare import Prepared

_APART = ("engine", "engine_chosen", "metric", "metric_function")  # what a recovery does not depend on


def recover_model(prepared: Prepared, quantized: OnGrids) -> Recovered:
    """What the recoveries of the point make of a network on its grids; the network itself if there are none.

    Raises:
        InputError: a recovery cannot work on the network, or the cache cannot be written.
    """
    names = list(prepared.point.recoveries)
    return _recovered(prepared, quantized, names) if names else Recovered(quantized, {})


def _recovered(prepared: Prepared, quantized: OnGrids, names: list[str]) -> Recovered:
    """After the recoveries of these names; at least one."""

    def make() -> Recovered:
        before = _recovered(prepared, quantized, names[:-1]) if names[1:] else Recovered(quantized, {})
        batches = split_off(prepared.images.batches(prepared.point.device))
        original = float_network(prepared, before.steps)
        return recover_once(original, before, batches, names[-1], prepared.point.recoveries[names[-1]])

    folder = Path(prepared.point.settings["cache_dir"]).expanduser() / "recovered"
    path = folder / f"{recovered_key(prepared, names)}.safetensors"
    return made_once(
        path,
        lambda file: read_recovered(file, quantized),
        make,
        lambda file, made: write_recovered(file, made, quantized),
    )


def float_network(prepared: Prepared, steps: Mapping[str, Step]) -> QuantGraph:
    """What a network is compared with after some recoveries: the float network, perhaps written another way."""
    original = prepared.graph
    for name, step in steps.items():
        original = prepared.point.recoveries[name].same_network(original) if step.kept else original
    return original


def recovered_key(prepared: Prepared, names: list[str]) -> str:
    """Hash of all that decides what these recoveries make, one after another."""
    contents = {key: value for key, value in prepared.contents().items() if key not in _APART}
    settings = prepared.point.settings["recovery"]
    return content_key({**contents, "recovery": [[name, settings[name]] for name in names]})


def write_recovered(path: Path, made: Recovered, quantized: OnGrids) -> None:
    """Write what a recovery changed of `quantized`; the file appears whole or not at all."""
    graph, before = made.quantized.graph.graph, quantized.graph.graph
    constants = {
        name: value
        for name, value in graph.constants.items()
        if name not in before.constants or not torch.equal(value, before.constants[name])
    }
    tensors: dict[str, Tensor] = {f"constant.{name}": value for name, value in constants.items()}
    for name, grid in made.quantized.qparams.items():
        tensors |= {f"scale.{name}": grid.scale, f"zero_point.{name}": grid.zero_point}
    inputs = {node.name: node.inputs for node in graph.nodes if node.inputs != before.node[node.name].inputs}
    steps = {name: asdict(step) for name, step in made.steps.items()}
    write_tensors(path, tensors, {"inputs": json.dumps(inputs), "steps": json.dumps(steps)})


def read_recovered(path: Path, quantized: OnGrids) -> Recovered | None:
    """What `write_recovered` wrote; None where there is none, or where it does not hold what its digest says."""
    stored = read_tensors(path)
    if stored is None:
        return None
    try:
        inputs, steps = (json.loads(stored.text[name]) for name in ("inputs", "steps"))
        qparams = {
            name: QParams(stored.tensors[f"scale.{name}"], stored.tensors[f"zero_point.{name}"], grid.spec)
            for name, grid in quantized.qparams.items()
        }
    except (KeyError, ValueError):  # intact, and not ours
        return None
    before = quantized.graph.graph
    nodes = tuple(replace(node, inputs=tuple(inputs.get(node.name, node.inputs))) for node in before.nodes)
    constants = {**before.constants, **_without_prefix(stored.tensors, "constant.")}
    graph = replace(quantized.graph, graph=replace(before, nodes=nodes, constants=constants))
    return Recovered(OnGrids(graph, qparams), {name: Step(**step) for name, step in steps.items()})


def _without_prefix(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
