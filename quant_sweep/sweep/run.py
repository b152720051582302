"""One run, top to bottom: prepare -> calibrate and quantize -> evaluate -> record."""

from __future__ import annotations

import logging

from omegaconf import DictConfig, OmegaConf

from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.evaluation.agreement import compare_some_images
from quant_sweep.evaluation.evaluate import Evaluation, evaluate
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.content_key import content_key
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.prepare import Prepared, prepare
from quant_sweep.sweep.quantize_model import QuantizedModel, quantize_model
from quant_sweep.sweep.record import record_agreement, record_float, record_result, recorded_float
from quant_sweep.tracking import Recorder, Tracker

log = logging.getLogger(__name__)


def run_point(cfg: DictConfig, sweep: str | None) -> None:
    """Do what `cfg` says, unless it is done already.

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
    key = content_key(prepared.contents())
    with tracker.lock(key):
        finished = tracker.find_finished(key)
        if finished is not None and not cfg.force:
            accuracy = finished.metrics["accuracy"]
            log.info("%s: accuracy %.2f (skipped: same key finished as run %s)", point, accuracy, finished.run_id)
            return
        baseline = _float_baseline(tracker, prepared)
        parent = tracker.sweep(sweep) if sweep else None
        with tracker.record(
            kind="point", key=key, name=str(point), params=point.params(), parent=parent, tags=point.tags()
        ) as record:
            record.text(OmegaConf.to_yaml(dict(point.settings)), "config.yaml")
            quantized = quantize_model(prepared)
            evaluation = evaluate(
                quantized.network, prepared.data, prepared.data.test, point.settings["batch_size"], point.device
            )
            record_result(record, quantized, prepared.specs, evaluation, baseline)
            _compare_with_simulation(record, quantized, prepared)
    log.info(
        "%s: accuracy %.2f (float %.2f), agreement %.2f %%; calibration %.1f s, evaluation %.1f s",
        *(point, evaluation.accuracy, baseline.accuracy, evaluation.agreement(baseline)),
        *(quantized.calibration_seconds, evaluation.seconds),
    )


def _float_baseline(tracker: Tracker, prepared: Prepared) -> Evaluation:
    """The float model on the test images: evaluated once per model, data and device, then read from its run."""
    point, model, data = prepared.point, prepared.model, prepared.data
    key = content_key({"model": model.digest, "data": data.fingerprint, "device": point.device.type})
    with tracker.lock(key):
        finished = tracker.find_finished(key)
        if finished is not None:
            return recorded_float(tracker, finished, data.test.labels)
        params = {name: value for name, value in point.params().items() if name.split(".")[0] in ("model", "data")}
        name = f"{point.settings['model']['name']} float"
        with tracker.record(kind="float", key=key, name=name, params=params) as record:
            baseline = evaluate(model.module, data, data.test, point.settings["batch_size"], point.device)
            record_float(record, model.module, baseline)
    log.info("%s: accuracy %.2f on %d test images", name, baseline.accuracy, len(baseline.labels))
    return baseline


def _compare_with_simulation(record: Recorder, quantized: QuantizedModel, prepared: Prepared) -> None:
    """Hold an engine that computes on integer codes against the simulation of the same grids."""
    network = quantized.network
    if isinstance(network, NetworkOfCodes):
        agreement = compare_some_images(network, quantized.graph, quantized.qparams, prepared.data)
        record_agreement(record, agreement, len(network.float_tensors))
