"""`quant-sweep-sensitivity`: which layers need their bits most."""

from __future__ import annotations

import hashlib
import logging
import math
import re
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from torch import Tensor

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.sweep_schema import Sensitivity, Sweep
from quant_sweep.data import DataSet, balanced_indices
from quant_sweep.engines import Simulate
from quant_sweep.errors import InputError
from quant_sweep.evaluation.sensitivity import measure_sensitivity, own_sqnr_db
from quant_sweep.report import SensitivityTable, build_sensitivity_report
from quant_sweep.report.measured import Metric
from quant_sweep.report.terminal import print_document
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.content_key import content_key
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.prepare import Prepared, prepare
from quant_sweep.sweep.quantize_model import QuantizedModel, quantize_model
from quant_sweep.tracking import FinishedRun, Tracker

log = logging.getLogger(__name__)

_TABLE, _CHART = "sensitivity.csv", "sensitivity.png"


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep-sensitivity"):
        run_hydra("sensitivity_config", rank_layers, Sweep, Sensitivity)


def rank_layers(cfg: DictConfig) -> None:
    """Quantize each part of a network alone, record what that does, and print the ranking.

    Raises:
        InputError: a value cannot be used; before any expensive work.
    """
    point = read_point(cfg)
    if not isinstance(point.engine, Simulate):
        raise InputError(
            f"engine={point.settings['engine']['name']}: most tensors stay in float here, which only simulate computes"
        )
    if point.recoveries:
        named = point.params()["recovery"]
        raise InputError(f"recovery={named}: each tensor is quantized alone here, as it is; use recovery=none")
    tracker = open_tracker(cfg)
    prepared = prepare(point)
    point = prepared.point
    metric = Metric.of(point.tags())
    chosen = draw_test_images(prepared.data, point.settings["images"], point.settings["seed"])
    key = content_key({"sensitivity": True, **prepared.contents(), "chosen": _digest(chosen)})
    folder = Path(cfg.outputs_dir) / "sensitivity" / f"{re.sub(r'[^A-Za-z0-9.]+', '_', str(point))}_{key[:6]}"
    with tracker.lock(key):
        finished = None if cfg.force else tracker.find_finished(key)
        recorded = _recorded(tracker, finished, metric) if finished is not None else None
        if finished is not None and recorded is not None:
            log.info("%s: skipped, same key finished as run %s", point, finished.run_id)
            report = build_sensitivity_report(recorded, folder)
        else:
            with tracker.record(
                kind="sensitivity", key=key, name=str(point), params=point.params(), tags=point.tags()
            ) as record:
                record.text(OmegaConf.to_yaml(dict(point.shown)), "config.yaml")
                table = _measure(quantize_model(prepared), prepared, chosen, metric)
                record.metrics(_metrics(table))
                report = build_sensitivity_report(table, folder)
                for name in (_TABLE, _CHART):
                    record.file(folder / name, name)
    print_document(report.document, Console())
    print(f"Chart: {folder / _CHART}")


def draw_test_images(data: DataSet, count: Any, seed: int) -> Tensor:
    """Which test images to measure on: a seeded subset that is balanced over the classes.

    Args:
        count: how many at most; None or "all" for all.

    Returns:
        indices, int64, ascending if they are all.

    Raises:
        InputError: count is neither.
    """
    there = len(data.test)
    if count in (None, "all"):
        count = there
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise InputError(f"images={count}: allowed are whole numbers from 1, and all for the {there} test images")
    return balanced_indices(data.test.strata, min(count, there), seed).sort().values


def _measure(quantized: QuantizedModel, prepared: Prepared, chosen: Tensor, metric: Metric) -> SensitivityTable:
    point, data, test = prepared.point, prepared.data, prepared.data.test
    batches = chosen.split(point.settings["batch_size"])
    measured = measure_sensitivity(
        quantized.graph,
        quantized.qparams,
        (
            (data.normalize(test.images[i].to(point.device)), None if test.labels is None else test.labels[i])
            for i in batches
        ),
        point.metric,
    )
    rows = measured.table(own_sqnr_db(quantized.graph, quantized.qparams, quantized.summaries))
    return SensitivityTable(str(point), measured.images, len(test), measured.float_value, rows, metric)


def _metrics(table: SensitivityTable) -> dict[str, float]:
    """`logit_kl/<part>` and its like; a ratio without noise is infinite, and then in the table only."""
    metrics = {"test_images": table.images, "test_images_available": table.test_images}
    per_part = {
        f"{column}/{row['name']}": float(row[column])
        for row in table.rows.to_dict("records")
        for column in row
        if column not in ("name", "kind", "tensors") and math.isfinite(row[column])
    }
    value = {} if table.float_value is None else {f"float_{table.metric.name}": table.float_value}
    return {**metrics, **value, **per_part}


def _recorded(tracker: Tracker, run: FinishedRun, metric: Metric) -> SensitivityTable | None:
    """What a finished run measured; None where its table is damaged or gone, and to be measured again."""
    images, there = (int(run.metrics[name]) for name in ("test_images", "test_images_available"))
    path = tracker.load_artifact(run.run_id, _TABLE)
    if path is None:
        log.warning("run %s: its %s is damaged; it is measured again", run.run_id, _TABLE)
        return None
    rows = pd.read_csv(path)
    return SensitivityTable(run.name, images, there, run.metrics.get(f"float_{metric.name}"), rows, metric)


def _digest(indices: Tensor) -> str:
    return hashlib.sha256(indices.numpy().tobytes()).hexdigest()
