"""`quant-sweep-allocate`: how many bits each tensor should have, as a file for `overrides=`."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Mapping
from pathlib import Path

import pandas as pd
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.sweep_schema import Allocate, Sweep
from quant_sweep.evaluation.budget import Budget, parse_budget
from quant_sweep.evaluation.search_widths import Allocation, Candidate, Search
from quant_sweep.quantization.assignment import write_assignment
from quant_sweep.report.allocation import AllocationTable, build_allocation_report
from quant_sweep.report.terminal import print_document
from quant_sweep.sweep.allocate_model import allocate_model, check_allocation, search_of
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.content_key import content_key
from quant_sweep.sweep.point import Point, read_point
from quant_sweep.sweep.prepare import prepare
from quant_sweep.tracking import Tracker

log = logging.getLogger(__name__)

ASSIGNMENT = "assignment.yaml"
_FILES = ("allocation.csv", "widths.csv", "allocation.png", ASSIGNMENT)
_OWN = ("budget", "widths", "steps", "overrides", "force")


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep-allocate"):
        run_hydra("allocate_config", allocate_bits, Sweep, Allocate)


def allocate_bits(cfg: DictConfig) -> None:
    """Search widths within a budget, record what was measured, and leave the assignment as a file.

    Raises:
        InputError: a value cannot be used, or no assignment keeps to the budget.
    """
    point = read_point(cfg)
    check_allocation(point)
    budget = _budget(point)
    tracker = open_tracker(cfg)
    prepared = prepare(point)
    search = search_of(prepared)
    name = " ".join(["allocate", str(budget), *_subject(point)])
    key = content_key({"allocation": True, **prepared.contents()})
    folder = Path(cfg.outputs_dir) / "allocation" / f"{re.sub(r'[^A-Za-z0-9.]+', '_', name)}_{key[:6]}"
    with tracker.lock(key):
        finished = None if cfg.force else tracker.find_finished(key)
        if finished is not None and _restored(tracker, finished.run_id, folder):
            log.info("%s: skipped, same key finished as run %s", name, finished.run_id)
            print(f"Assignment: {folder / ASSIGNMENT}")
            return
        with tracker.record(kind="allocation", key=key, name=name, params=point.params(), tags=point.tags()) as record:
            record.text(OmegaConf.to_yaml(dict(point.shown)), "config.yaml")
            found = allocate_model(search, budget, point.settings["steps"])
            table = _table(search, found, " ".join(_subject(point)), budget, folder)
            report = build_allocation_report(table, folder)
            write_assignment(folder / ASSIGNMENT, found.chosen.widths, f"{name}\n{table.command}")
            record.metrics(_metrics(found))
            for file in _FILES:
                record.file(folder / file, file)
    print_document(report.document, Console())
    print(f"Assignment: {folder / ASSIGNMENT}")


def _budget(point: Point) -> Budget:
    """What is typed; where nothing is, what the network costs with `bits` everywhere."""
    given, widths = point.settings["budget"], point.widths
    nothing = isinstance(given, Mapping) and not any(value is not None for value in given.values())
    if nothing and widths.weights == widths.activations:
        return Budget(like_uniform=widths.weights)
    return parse_budget(given)


def _subject(point: Point) -> list[str]:
    settings = point.settings
    named = [str(settings[group]["name"]) for group in ("model", "scheme", "observer")]
    return [*named, point.fusion.value, str(point.params()["recovery"])]


def _restored(tracker: Tracker, run: str, folder: Path) -> bool:
    """Whether the files of a finished run lie in the folder, copied there if need be."""
    for name in _FILES:
        source = tracker.load_artifact(run, name)
        if source is None:
            log.warning("run %s: its %s is damaged; it is searched again", run, name)
            return False
        folder.mkdir(parents=True, exist_ok=True)
        if not (folder / name).exists():
            (folder / name).write_bytes(source.read_bytes())
    return True


def _costs(one: Candidate) -> dict[str, float]:
    return {"megabytes": one.costs["weight_bits"] / 8e6, "bit_operations": one.costs["bit_operations"] / 1e9}


def _metrics(found: Allocation) -> dict[str, float]:
    chosen = found.chosen
    bits = {f"bits/{name}": 32.0 if width == "float" else float(width) for name, width in chosen.widths.items()}
    measured = {"logit_kl": chosen.damage, "changed_classes": chosen.changed, "images": float(found.images)}
    return {**measured, **_costs(chosen), **bits}


def _table(search: Search, found: Allocation, title: str, budget: Budget, folder: Path) -> AllocationTable:
    rows = pd.DataFrame(
        [
            {
                "name": one.name,
                "damage": one.damage,
                "changed": one.changed,
                **_costs(one),
                "chosen": one is found.chosen,
            }
            for one in found.candidates
        ]
    )
    size, widths = search.size, found.chosen.widths
    numbers = {**size.activations, **size.weights}
    tensors = pd.DataFrame(
        [
            {
                "name": tensor,
                "kind": "weight" if tensor in size.weights else "activation",
                "numbers": numbers[tensor],
                "bits": str(width),
            }
            for tensor, width in widths.items()
        ]
    )
    typed = [word for word in HydraConfig.get().overrides.task if re.split(r"[.=]", word.lstrip("+~"))[0] not in _OWN]
    bits = [] if any(word.startswith("bits=") for word in typed) else [f"bits={budget.like_uniform or 8}"]
    command = shlex.join(["quant-sweep", *bits, *typed, f"overrides={folder / ASSIGNMENT}"])
    return AllocationTable(title, str(budget), found.images, rows, tensors, command)
