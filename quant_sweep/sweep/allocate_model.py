"""The search for widths with the settings of a run: networks and damages are kept on disk like those of any run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from quant_sweep.engines import Auto, Flow, Simulate
from quant_sweep.errors import InputError
from quant_sweep.evaluation.allocate import check_recoveries, in_batches, judging_batches, width_choices
from quant_sweep.evaluation.budget import Budget
from quant_sweep.evaluation.search_widths import Allocation, Choices, Search
from quant_sweep.evaluation.tensor_damages import Damages, Widths, tensor_damages
from quant_sweep.graph import after_clamp
from quant_sweep.quantization.allocation import network_size, sharing_groups
from quant_sweep.quantization.scheme import FLOAT, Width, assign_specs
from quant_sweep.recovery import OnGrids, check_enough
from quant_sweep.runtime.disk_cache import made_once
from quant_sweep.runtime.kinds import is_whole
from quant_sweep.runtime.tensor_file import read_tensors, write_tensors
from quant_sweep.sweep.content_key import content_key
from quant_sweep.sweep.point import Point
from quant_sweep.sweep.prepare import Prepared
from quant_sweep.sweep.quantize_model import on_grids
from quant_sweep.sweep.recover_model import judging_images

# What the damage of a tensor does not depend on; each width is tried, whatever `bits` says.
_IGNORED = ("engine", "engine_chosen", "budget", "steps", "weight_bits", "activation_bits")


def check_allocation(point: Point) -> None:
    """Refuse settings of the search before anything is read.

    Raises:
        InputError: naming the key.
    """
    settings = point.settings
    if isinstance(point.engine, Flow):
        raise InputError(
            f"engine={settings['engine']['name']}: it has its own flow and one width; allowed are auto and the engines "
            "that take the grids of this project, simulate, int8 and integer"
        )
    if not is_whole(settings["steps"], 1, 100):
        raise InputError(f"steps={settings['steps']!r}: allowed are whole numbers from 1 to 100")
    if not isinstance(settings["widths"], Sequence) or isinstance(settings["widths"], str):
        raise InputError(f"widths={settings['widths']!r}: allowed is a list of bits, [2,3,4,8,{FLOAT}]")
    check_recoveries(point.recoveries)
    if isinstance(settings["calibration"]["images"], int):
        check_enough(settings["calibration"]["images"])


def search_of(prepared: Prepared) -> Search:
    """The search for the network of a point; widths that its overrides name are settled.

    Raises:
        InputError: `widths` is not allowed.
    """
    point, graph = prepared.point, prepared.graph
    choices = width_choices(graph, point.scheme, point.widths.overrides, point.settings["widths"])
    kept_out = judging_batches(prepared.images.batches(point.device))

    def damages(weights: Mapping[Width, OnGrids], activations: Mapping[Width, OnGrids]) -> Damages:
        path = Path(point.settings["cache_dir"]).expanduser() / "damages" / f"{_key(prepared)}.safetensors"
        return made_once(
            path,
            lambda file: _read(file, choices),
            lambda: tensor_damages(graph, weights, activations, choices, kept_out),
            _write,
        )

    return Search(
        original=graph,
        size=network_size(graph),
        groups=sharing_groups(graph, after_clamp(graph) if point.scheme.same_grid_around_relu else {}),
        choices=choices,
        judges=in_batches(judging_images(prepared)),
        make=lambda widths: on_grids(_at(prepared, widths)),
        damages=damages,
    )


def allocate_model(search: Search, budget: Budget, steps: int) -> Allocation:
    """Search, on one kind of memory layout and in float32; raises as `Search.run`."""
    with torch.no_grad():
        return search.run(budget, steps)


def _at(prepared: Prepared, widths: Widths) -> Prepared:
    """The same point with other widths: what `quant-sweep overrides=...` would prepare."""
    point = prepared.point
    kept = {key: value for key, value in point.settings.items() if key not in ("budget", "widths", "steps")}
    settings = {**kept, "overrides": dict(widths)}
    assigned = replace(point.widths, overrides=widths)
    specs = assign_specs(prepared.graph, point.scheme, assigned)
    engine = Simulate() if isinstance(point.engine, Auto) else point.engine
    return replace(prepared, point=replace(point, settings=settings, widths=assigned, engine=engine), specs=specs)


def _key(prepared: Prepared) -> str:
    contents = {key: value for key, value in prepared.contents().items() if key not in _IGNORED}
    return content_key({**contents, "damages": True})


def _write(path: Path, damages: Damages) -> None:
    tensors = {name: torch.tensor(list(by_width.values()), dtype=torch.float64) for name, by_width in damages.items()}
    write_tensors(path, tensors, {"widths": json.dumps({name: list(by) for name, by in damages.items()})})


def _read(path: Path, choices: Choices) -> Damages | None:
    stored = read_tensors(path)
    if stored is None:
        return None
    widths = {name: tuple(given) for name, given in json.loads(stored.text.get("widths", "{}")).items()}
    if widths != dict(choices):
        return None
    return {name: dict(zip(given, stored.tensors[name].tolist(), strict=True)) for name, given in widths.items()}
