"""The stage between quantizing and evaluating: the recoveries of a point, each made once and kept on disk.

The file of a recovery stands under all that decides it: weights, images, grids and how they were chosen, the recoveries
before it and the sources. `recovery=[reconstruct,distill]` finds what `recovery=reconstruct` left. One that learns in
many steps keeps how far it is, so that a process that is killed loses a minute.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import final

import torch
from safetensors import SafetensorError
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.data import TrainingImages
from quant_sweep.graph import QuantGraph
from quant_sweep.recovery import Learner, LearningTask, OnGrids, Recovered, Step, is_kept_out, recover_once, split_off
from quant_sweep.runtime.disk_cache import made_once
from quant_sweep.runtime.tensor_file import read_tensors, write_tensors
from quant_sweep.sweep.content_key import content_key
from quant_sweep.sweep.prepare import Prepared

log = logging.getLogger(__name__)

_APART = ("engine", "engine_chosen", "metric", "metric_function")  # what a recovery does not depend on
_SAID = ("weight_bits", "activation_bits", "overrides")  # how the widths of tensors were said
_JUDGES = 512  # images; fewer cannot tell two good networks apart
_SECONDS_BETWEEN_STATES = 60.0  # of a recovery that learns


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
        device, data = prepared.point.device, prepared.data
        seen, _ = split_off(prepared.images.batches(device))
        _, learn = _other_images(prepared)
        batches = seen, list(judging_images(prepared).split(prepared.images.batch_size))
        original, method = float_network(prepared, before.steps), prepared.point.recoveries[names[-1]]
        if not isinstance(method, Learner):
            return recover_once(original, before, batches, names[-1], method)
        unfinished = _StateFile(folder / f"{key}.unfinished.safetensors", _SECONDS_BETWEEN_STATES)
        task = LearningTask(TrainingImages(data, learn[: method.images], device), unfinished)
        made = recover_once(original, before, batches, names[-1], method, task)
        unfinished.remove()
        return made

    folder = Path(prepared.point.settings["cache_dir"]).expanduser() / "recovered"
    key = recovered_key(prepared, names)
    return made_once(
        folder / f"{key}.safetensors",
        lambda file: read_recovered(file, quantized),
        make,
        lambda file, made: write_recovered(file, made, quantized),
    )


def judging_images(prepared: Prepared) -> Tensor:
    """Training images, normalised, (n, ...), that no recovery of a point sees: on these it is judged."""
    judge, _ = _other_images(prepared)
    return TrainingImages(prepared.data, judge, prepared.point.device)[:]


def _other_images(prepared: Prepared) -> tuple[Tensor, Tensor]:
    """Numbers of the training images that judge a recovery, and of those that one may learn from.

    Every 8th of calibration's judges, and images that calibration does not see, up to 512; all others can be learned
    from, those of calibration first.
    """
    calibration, seed = prepared.images.indices, prepared.point.settings["seed"]
    others = torch.randperm(len(prepared.data.train), generator=torch.Generator().manual_seed(seed))
    others = others[~torch.isin(others, calibration)]
    kept_out = is_kept_out(torch.arange(len(calibration)))
    more = max(min(_JUDGES - int(kept_out.sum()), len(others) // 2), 0)
    return torch.cat([calibration[kept_out], others[:more]]), torch.cat([calibration[~kept_out], others[more:]])


@final
class _StateFile:
    """A file that says how far a recovery is, written every so many seconds, for a process that goes on with it."""

    def __init__(self, path: Path, seconds: float) -> None:
        self.path, self.seconds = path, seconds
        self.written = time.monotonic()

    def read(self) -> Mapping[str, Tensor] | None:
        stored = read_tensors(self.path)
        if stored is None and self.path.exists():
            log.warning("%s is damaged; the recovery begins anew", self.path)
        return None if stored is None else stored.tensors

    def write(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        if time.monotonic() - self.written < self.seconds:
            return
        self.written = time.monotonic()
        try:
            write_tensors(self.path, {name: value.cpu() for name, value in state().items()}, {})
        except (OSError, SafetensorError) as error:
            log.warning("cannot keep how far a recovery is (%s); were it interrupted, it would begin anew", error)

    def remove(self) -> None:
        self.path.unlink(missing_ok=True)


def float_network(prepared: Prepared, steps: Mapping[str, Step]) -> QuantGraph:
    """What a network is compared with after some recoveries: the float network, perhaps written another way."""
    original = prepared.graph
    for name, step in steps.items():
        original = prepared.point.recoveries[name].same_network(original) if step.kept else original
    return original


def recovered_key(prepared: Prepared, names: list[str]) -> str:
    """Hash of all that decides what these recoveries make, one after another."""
    contents = {key: value for key, value in prepared.contents().items() if key not in (*_APART, *_SAID)}
    settings = prepared.point.settings["recovery"]
    widths = {name: spec.bits for name, spec in prepared.specs.items()}
    return content_key({**contents, "widths": widths, "recovery": [[name, settings[name]] for name in names]})


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
