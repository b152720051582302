"""One run, top to bottom: prepare -> calibrate, quantize and recover -> compare engines -> evaluate -> record."""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

from omegaconf import DictConfig, OmegaConf

from quant_sweep.engines import Flow, Simulate
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.errors import InputError, printable
from quant_sweep.evaluation.agreement import EngineAgreement, compare_some_images
from quant_sweep.evaluation.evaluate import evaluate
from quant_sweep.evaluation.metrics import Metric
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.content_key import content_key
from quant_sweep.sweep.doubts import doubts, is_chance, say_once
from quant_sweep.sweep.float_model import FloatModel, float_model
from quant_sweep.sweep.point import Point, metric_tags, read_point
from quant_sweep.sweep.prepare import Prepared, prepare
from quant_sweep.sweep.quantize_model import QuantizedModel, quantize_model
from quant_sweep.sweep.record import (
    record_agreement,
    record_float,
    record_float_weights,
    record_recovery,
    record_result,
)
from quant_sweep.tracking import Recorder, Tracker

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Outcome:
    """What became of a point.

    Attributes:
        skipped: it was finished before.
        text: what to tell, one line.
    """

    run_id: str
    skipped: bool
    text: str


def run_point(cfg: DictConfig, sweep: str | None) -> Outcome:
    """Do what `cfg` says, unless it is done already, and log what became of it.

    Args:
        cfg: as `conf/config.yaml`.
        sweep: unique name of the multirun that the run belongs to; None for a run of its own.

    Raises:
        InputError: a value cannot be used; before any expensive work.
    """
    point = read_point(cfg)
    tracker = open_tracker(cfg)
    prepared = prepare(point)
    point = prepared.point
    if prepared.graph.float_weights and not isinstance(point.engine, Flow):
        log.info("%s: weights that stay in float: %s", point, printable(", ".join(prepared.graph.float_weights)))
    key = content_key(prepared.contents())
    with tracker.lock(key):
        finished = tracker.find_finished(key)
        if finished is not None and not cfg.force:
            reached = _shown(point, finished.metrics[_metric(point).name])
            text = f"{point}: {reached} (skipped: same key finished as run {finished.run_id})"
            log.info("%s", text)
            return Outcome(finished.run_id, True, text)
        for doubt in doubts(point.settings):
            say_once(doubt)
        original = _float_original(tracker, prepared)
        baseline = original.evaluation
        if _metric(point).name == "accuracy" and is_chance(baseline, len(prepared.data.classes)):
            say_once(
                f"model={point.settings['model']['name']}: the float accuracy {baseline.accuracy:.2f} is what guessing "
                "reaches; check model.checkpoint, data.mean, data.std and the order of the classes"
            )
        parent = tracker.sweep(sweep) if sweep else None
        with tracker.record(
            kind="point", key=key, name=str(point), params=point.params(), parent=parent, tags=point.tags()
        ) as record:
            record.text(OmegaConf.to_yaml(dict(point.shown)), "config.yaml")
            if not isinstance(point.engine, Flow):
                record_float_weights(record, prepared.graph)
            quantized, agreement = _believed(record, quantize_model(prepared), prepared)
            evaluation = evaluate(
                *(quantized.network, prepared.data, prepared.data.test, point.settings["batch_size"], point.device),
                *(point.metric, original.outputs),
            )
            record_recovery(record, quantized.recovery)
            record_result(record, quantized, prepared, evaluation, baseline, agreement)
    beside = f" (float {baseline.value:.{_digits(point)}})" if _metric(point).has_float_value else ""
    same = "" if evaluation.same_class is None else f", agreement {100 * evaluation.same_class.mean().item():.2f} %"
    text = (
        f"{point}: {_shown(point, evaluation.value)}{beside}{same}; "
        f"calibration {quantized.calibration_seconds:.1f} s, evaluation {evaluation.seconds:.1f} s"
    )
    log.info("%s", text)
    return Outcome(record.run_id, False, text)


def _metric(point: Point) -> Metric:
    assert point.metric is not None, "prepare settles the metric"
    return point.metric


def _digits(point: Point) -> str:
    return "2f" if _metric(point).unit in ("%", "dB") else "4g"


def _shown(point: Point, value: float) -> str:
    return f"{_metric(point).name} {value:.{_digits(point)}}"


def _float_original(tracker: Tracker, prepared: Prepared) -> FloatModel:
    """The float model on the test samples, and a run of its own that says what it reaches."""
    point, model, data = prepared.point, prepared.model, prepared.data
    measured = {key: value for key, value in point.contents().items() if key in ("metric", "metric_function")}
    key = content_key({"model": model.digest, "data": data.fingerprint, "device": point.device.type, **measured})
    with tracker.lock(key):
        if tracker.find_finished(key) is not None:
            return float_model(prepared)
        groups = ("model", "data", "metric")
        params = {name: value for name, value in point.params().items() if name.split(".")[0] in groups}
        name = f"{point.settings['model']['name']} float"
        tags = metric_tags(_metric(point))
        with tracker.record(kind="float", key=key, name=name, params=params, tags=tags) as record:
            original = float_model(prepared)
            record_float(record, model.module, original.evaluation, data)
    value = f"{_shown(point, original.evaluation.value)} on" if _metric(point).has_float_value else "ran on"
    log.info("%s: %s %d test images", name, value, original.evaluation.samples)
    return original


def _believed(
    record: Recorder, quantized: QuantizedModel, prepared: Prepared
) -> tuple[QuantizedModel, EngineAgreement | None]:
    """The network, if it computes on integer codes held against the simulation of the same grids.

    With it comes the comparison; None where there was none. Where the two part by more than rounding explains,
    `engine=auto` becomes the simulation and says so.

    Raises:
        InputError: they part, and the engine was asked for by name.
    """
    network, point = quantized.network, prepared.point
    if not isinstance(network, NetworkOfCodes):
        return quantized, None
    agreement = compare_some_images(network, quantized.graph, quantized.qparams, prepared.data)
    record_agreement(record, agreement, network.float_tensors)
    reason = agreement.disagreement(network.rounds)
    if reason is None:
        return quantized, agreement
    if point.choice is None:
        raise InputError(f"engine={point.settings['engine']['name']}: {reason}; use engine=simulate")
    log.warning("%s: engine=auto computes with simulate instead of %s: %s", point, point.choice.name, reason)
    record.tag("engine_chosen", "simulate")
    record.tag("engine_fell_back", reason)
    return replace(quantized, network=Simulate().build(quantized.graph, quantized.qparams)), agreement
