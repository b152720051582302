"""One run, top to bottom: config -> model + images -> graph -> calibrate -> quantize -> evaluate -> record.

A calibration pass is made once and serves all points that ask for the same one: kept in memory for those of this
process, and in the cache folder for others, which wait for it if they want it meanwhile.
"""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch
from omegaconf import DictConfig, OmegaConf
from torch import nn

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.cache import collected_once
from quant_sweep.calibration.one_pass import Calibration, calibrate, choose_activation_qparams, choose_weight_qparams
from quant_sweep.calibration.sequential import calibrate_sequentially
from quant_sweep.data import CalibrationImages, DataSet, draw_calibration_images
from quant_sweep.engines import Auto, Flow
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.evaluation.agreement import compare_with_simulation
from quant_sweep.evaluation.evaluate import Evaluation, evaluate
from quant_sweep.evaluation.model_size import float_megabytes, quantized_megabytes
from quant_sweep.evaluation.qparams_table import qparams_table
from quant_sweep.graph import Fusion, QuantGraph
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import Observer
from quant_sweep.quantization.scheme import assign_specs
from quant_sweep.sweep.build import LoadedModel, load_data, load_model
from quant_sweep.sweep.content_key import content_key, summaries_key
from quant_sweep.sweep.point import Point, read_point
from quant_sweep.tracking import Recorder, Tracker

log = logging.getLogger(__name__)

# What an integer engine is held against the simulation with: the classes of some images, and of as many of them each
# code as this many codes allow, lest a point of a large network spend seconds on it.
_FEWEST_COMPARED, _MOST_COMPARED, _COMPARED_CODES = 8, 32, 2**23


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
    data = load_data(cfg.data)
    model = load_model(cfg.model, data)
    specs = assign_specs(model.graph(point.fusion), point.scheme, point.widths)
    point = point.settled(model.graph(point.fusion), specs)
    images = calibration_images(point, data)
    key = content_key({**point.contents(), "model": model.digest, "data": data.fingerprint, "images": images.digest})
    with tracker.lock(key):
        finished = tracker.find_finished(key)
        if finished is not None and not cfg.force:
            accuracy = finished.metrics["accuracy"]
            log.info("%s: accuracy %.2f (skipped: same key finished as run %s)", point, accuracy, finished.run_id)
            return
        baseline = float_baseline(tracker, point, model, data)
        parent = tracker.sweep(sweep) if sweep else None
        with tracker.record(
            kind="point", key=key, name=str(point), params=point.params(), parent=parent, tags=point.tags()
        ) as record:
            record.text(OmegaConf.to_yaml(dict(point.settings)), "config.yaml")
            quantized = quantize_model(model, point, specs, images)
            evaluation = evaluate(quantized.network, data, data.test, cfg.batch_size, point.device)
            _record_result(record, quantized, specs, evaluation, baseline)
            if isinstance(quantized.network, NetworkOfCodes):
                _record_agreement(record, quantized, quantized.network, data)
    log.info(
        "%s: accuracy %.2f (float %.2f), agreement %.2f %%; calibration %.1f s, evaluation %.1f s",
        *(point, evaluation.accuracy, baseline.accuracy, evaluation.agreement(baseline)),
        *(quantized.calibration_seconds, evaluation.seconds),
    )


def open_tracker(cfg: DictConfig) -> Tracker:
    """The store that `tracking` names."""
    tracking = cfg.tracking
    return Tracker.open(tracking.uri, tracking.experiment, Path(tracking.artifacts), Path(tracking.lock_dir))


def calibration_images(point: Point, data: DataSet) -> CalibrationImages:
    """The training images on which `point` is calibrated."""
    wanted = point.settings["calibration"]
    return draw_calibration_images(
        data, wanted["images"], wanted["batch_size"], point.settings["seed"], wanted["augment"]
    )


def float_baseline(tracker: Tracker, point: Point, model: LoadedModel, data: DataSet) -> Evaluation:
    """The float model on the test images: evaluated once per model, data and device, then read from its run."""
    key = content_key({"model": model.digest, "data": data.fingerprint, "device": point.device.type})
    with tracker.lock(key):
        finished = tracker.find_finished(key)
        if finished is not None:
            table = pd.read_csv(tracker.load_artifact(finished.run_id, "predictions.csv"))
            predictions = torch.tensor(table["float_prediction"].to_numpy(copy=True))
            return Evaluation(predictions, data.test.labels, finished.metrics["evaluation_seconds"])
        params = {name: value for name, value in point.params().items() if name.split(".")[0] in ("model", "data")}
        name = f"{point.settings['model']['name']} float"
        with tracker.record(kind="float", key=key, name=name, params=params) as record:
            baseline = evaluate(model.module, data, data.test, point.settings["batch_size"], point.device)
            record.metrics(
                {
                    "accuracy": baseline.accuracy,
                    "test_images": len(baseline.labels),
                    "evaluation_seconds": baseline.seconds,
                    "images_per_second": baseline.images_per_second,
                    "model_size_mb": float_megabytes(model.module),
                }
            )
            record.table(_predictions({"float_prediction": baseline}), "predictions.csv")
    log.info("%s: accuracy %.2f on %d test images", name, baseline.accuracy, len(baseline.labels))
    return baseline


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """What an engine made of a model, with what calibration saw.

    Attributes:
        network: normalised images to logits.
        graph: the float network whose tensors lie on grids.
        qparams: by tensor name.
        summaries: by tensor name; empty where the flow keeps none.
        calibration_seconds: for this point; a pass that an earlier point made is not counted again.
    """

    network: nn.Module
    graph: QuantGraph
    qparams: Mapping[str, QParams]
    summaries: Mapping[str, Summary]
    calibration_seconds: float


def quantize_model(
    model: LoadedModel, point: Point, specs: Mapping[str, QuantSpec], images: CalibrationImages
) -> QuantizedModel:
    """Calibrate and quantize as the point says."""
    began = time.perf_counter()
    graph = model.graph(point.fusion)
    assert not isinstance(point.engine, Auto)
    if isinstance(point.engine, Flow):
        observer = point.settings["observer"]["name"]
        network, qparams = point.engine.quantize(model.module, lambda: images.batches(point.device), observer)
        return QuantizedModel(network, graph, qparams, {}, time.perf_counter() - began)
    if point.sequential:
        calibration, qparams = calibrate_sequentially(
            graph,
            images.batches(point.device),
            specs,
            point.observer,
            point.weight_observer,
            point.update_batch_norm,
        )
    else:
        calibration = _one_pass(model, point.fusion, images, point.device, point.settings["cache_dir"])
        weight_specs = tuple((weight.name, specs[weight.name]) for weight in graph.weights)
        weights = _weight_qparams(model, point.fusion, weight_specs, point.weight_observer)
        activations = choose_activation_qparams(calibration, specs, point.observer)
        qparams = point.scheme.tied(graph, activations | weights)
    seconds = time.perf_counter() - began
    network = point.engine.build(calibration.graph, qparams)
    return QuantizedModel(network, calibration.graph, qparams, calibration.summaries, seconds)


@functools.lru_cache(maxsize=len(Fusion))
def _one_pass(
    model: LoadedModel, fusion: Fusion, images: CalibrationImages, device: torch.device, cache_dir: str
) -> Calibration:
    graph = model.graph(fusion)
    key = summaries_key(
        {
            "model": model.digest,
            "fusion": fusion.value,
            "data": images.data.fingerprint,
            "images": images.digest,
            "batch_size": images.batch_size,
            "device": device.type,
        }
    )
    return Calibration(
        graph, collected_once(key, cache_dir, lambda: calibrate(graph, images.batches(device)).summaries)
    )


@functools.lru_cache(maxsize=8)
def _weight_qparams(
    model: LoadedModel, fusion: Fusion, specs: tuple[tuple[str, QuantSpec], ...], observer: Observer
) -> dict[str, QParams]:
    """The grids of the weights, which all points share that differ in their activations."""
    return choose_weight_qparams(model.graph(fusion), dict(specs), observer)


def _record_result(
    record: Recorder,
    quantized: QuantizedModel,
    specs: Mapping[str, QuantSpec],
    evaluation: Evaluation,
    baseline: Evaluation,
) -> None:
    weight_bits = {weight.name: specs[weight.name].bits for weight in quantized.graph.weights}
    metrics = {
        "accuracy": evaluation.accuracy,
        "float_accuracy": baseline.accuracy,
        "drop": baseline.accuracy - evaluation.accuracy,
        "agreement": evaluation.agreement(baseline),
        "test_images": len(evaluation.labels),
        "calibration_seconds": quantized.calibration_seconds,
        "evaluation_seconds": evaluation.seconds,
        "images_per_second": evaluation.images_per_second,
        "model_size_mb": quantized_megabytes(quantized.graph, weight_bits),
    }
    for name, grid in quantized.qparams.items():
        if grid.scale.dim() == 0:  # weights per channel are in the table only
            metrics[f"scale/{name}"] = grid.scale.item()
            metrics[f"zero_point/{name}"] = grid.zero_point.item()
    record.metrics(metrics)
    record.table(qparams_table(quantized.graph, quantized.qparams, quantized.summaries), "qparams.csv")
    record.table(_predictions({"prediction": evaluation, "float_prediction": baseline}), "predictions.csv")


def _record_agreement(record: Recorder, quantized: QuantizedModel, network: NetworkOfCodes, data: DataSet) -> None:
    """How far an integer engine is from the simulation of the same grids, on the first test images."""
    images = data.normalize(data.test.images[:_MOST_COMPARED])
    codes_an_image = sum(codes.numel() for codes in network.codes(images[:1]).values())
    codes_of = max(_COMPARED_CODES // max(codes_an_image, 1), 1)
    images = images[: max(codes_of, _FEWEST_COMPARED)]
    agreement = compare_with_simulation(network, quantized.graph, quantized.qparams, images, codes_of)
    record.metrics(
        {
            "float_tensors": len(network.float_tensors),
            "simulate_images": agreement.images,
            "simulate_agreement": agreement.same_class,
            "simulate_largest_lsb": agreement.largest_lsb,
            "simulate_compared_codes": agreement.compared_codes,
            "simulate_differing_codes": agreement.differing,
            **{f"lsb/{name}": largest for name, largest in agreement.lsb.items()},
        }
    )
    record.tag("simulate_first_difference", agreement.first_difference or "none")


def _predictions(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """One row per test image: its label and each network's class."""
    labels = next(iter(evaluations.values())).labels
    columns = {name: evaluation.predictions.numpy() for name, evaluation in evaluations.items()}
    return pd.DataFrame({"label": labels.numpy(), **columns})
