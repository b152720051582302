"""`quant-sweep-explain`: what happens in one layer, on the terminal, as Markdown and as a page."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig
from rich.console import Console

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.sweep_schema import Explain, Sweep
from quant_sweep.data import CalibrationImages
from quant_sweep.engines import Flow
from quant_sweep.errors import InputError
from quant_sweep.explain import Explanation, Subject, check_layer, explain
from quant_sweep.explain.page import page
from quant_sweep.report.html import html
from quant_sweep.report.links import subject_of
from quant_sweep.report.markdown import markdown
from quant_sweep.report.terminal import print_document
from quant_sweep.runtime.atomic_file import replacing
from quant_sweep.runtime.kinds import is_whole
from quant_sweep.sweep.point import Point, read_point
from quant_sweep.sweep.prepare import prepare
from quant_sweep.sweep.quantize_model import quantize_model


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep-explain"):
        run_hydra("explain_config", explain_layer, Sweep, Explain)


def explain_layer(cfg: DictConfig) -> None:
    """Explain `layer`, and leave the page below `outputs_dir`."""
    document = replace(page(explanation_of(cfg)), about=subject_of(read_point(cfg).params()))
    print_document(document, Console())
    folder = Path(cfg.outputs_dir) / "explain"
    folder.mkdir(parents=True, exist_ok=True)
    name = re.sub(r"[^A-Za-z0-9._-]", "_", cfg.layer)
    for suffix, content in ((".md", markdown(document)), (".html", html(document))):
        path = folder / f"{name}{suffix}"
        with replacing(path) as unfinished:
            unfinished.write_text(content, encoding="utf-8")
        print(f"Explanation: {path}")


def explanation_of(cfg: DictConfig) -> Explanation:
    """What `cfg` asks for.

    Raises:
        InputError: a value cannot be used; before any expensive work.
    """
    point = read_point(cfg)
    if isinstance(point.engine, Flow):
        raise InputError(
            f"engine={point.settings['engine']['name']}: it has its own flow, whose arithmetic it does not show; "
            "allowed are auto and the engines that take the grids of this project, simulate, int8 and integer"
        )
    if point.recoveries:
        named = point.params()["recovery"]
        raise InputError(f"recovery={named}: the page shows a network as it is rounded; use recovery=none")
    prepared = prepare(point)
    point = prepared.point
    layer = str(point.settings["layer"])
    check_layer(prepared.graph, layer)
    shown = _some(prepared.images, point.settings["images"])
    quantized = quantize_model(prepared)
    subject = Subject(
        graph=quantized.graph,
        qparams=quantized.qparams,
        summaries=quantized.summaries,
        observer=point.observer,
        weight_observer=point.weight_observer,
        network=quantized.network,
        engine=_engine(point),
    )
    return explain(subject, layer, shown.batches(torch.device("cpu")), _setting(point))


def _some(images: CalibrationImages, count: Any) -> CalibrationImages:
    if not is_whole(count, 1, len(images.indices)):
        raise InputError(
            f"images={count}: allowed are whole numbers from 1 to calibration.images={len(images.indices)}"
        )
    return replace(images, indices=images.indices[:count])


def _engine(point: Point) -> str:
    return point.choice.name if point.choice else str(point.settings["engine"]["name"])


def _setting(point: Point) -> dict[str, str]:
    """What decides the numbers on the page, as it is typed."""
    settings, widths = point.settings, point.widths
    same = widths.weights == widths.activations
    bits = {"bits": widths.weights} if same else {"weight_bits": widths.weights, "activation_bits": widths.activations}
    groups = ("model", "data", "observer", "weight_observer", "scheme", "calibration")
    named = {group: settings[group]["name"] for group in groups}
    chosen: dict[str, object] = {**bits, **named, "fusion": point.fusion.value, "engine": _engine(point)}
    return {name: str(value) for name, value in chosen.items()}
