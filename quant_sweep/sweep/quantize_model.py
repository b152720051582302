"""From what a run works with to a quantized network: calibrate, choose the quantization parameters, recover, build.

A calibration pass is made once and serves all points that ask for the same one: kept in memory for those of this
process, and in the cache folder for others, which wait for it if they want it meanwhile.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.cache import collected_once
from quant_sweep.calibration.one_pass import Calibration, calibrate, choose_activation_qparams, choose_weight_qparams
from quant_sweep.calibration.sequential import calibrate_sequentially
from quant_sweep.data import CalibrationImages
from quant_sweep.engines import Auto, Flow
from quant_sweep.graph import Fusion, QuantGraph
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import Observer
from quant_sweep.recovery import OnGrids, Recovered, Step
from quant_sweep.runtime.progress import tracked
from quant_sweep.sweep.build import LoadedModel
from quant_sweep.sweep.content_key import summaries_key
from quant_sweep.sweep.prepare import Prepared
from quant_sweep.sweep.recover_model import float_network, recover_model


@dataclass(frozen=True, eq=False)
class QuantizedModel:
    """What an engine made of a model, with what calibration saw.

    Attributes:
        network: normalised images to logits.
        graph: the float network whose tensors lie on grids; after a recovery its weights already do.
        qparams: by tensor name.
        summaries: by tensor name; empty where the flow keeps none, or where a recovery scaled the tensors since.
        original: the float network that it is compared with.
        calibration_seconds: for this point; a pass that an earlier point made is not counted again.
        recovery: what each recovery did, by name; also what an earlier run did for this one.
    """

    network: nn.Module
    graph: QuantGraph
    qparams: Mapping[str, QParams]
    summaries: Mapping[str, Summary]
    calibration_seconds: float
    original: QuantGraph
    recovery: Mapping[str, Step] = field(default_factory=dict)


def quantize_model(prepared: Prepared) -> QuantizedModel:
    """Calibrate, quantize and recover as the point says."""
    began = time.perf_counter()
    engine = prepared.point.engine
    assert not isinstance(engine, Auto), "prepare settles the engine"
    if isinstance(engine, Flow):
        return _by_flow(prepared, engine, began)
    calibration, qparams = _sequential(prepared) if prepared.point.sequential else _one_pass(prepared)
    seconds = time.perf_counter() - began
    recovered = recover_model(prepared, OnGrids(calibration.graph, qparams))
    made = _counted(recovered)
    network = engine.build(made.graph, made.qparams)
    original = float_network(prepared, recovered.steps)
    summaries = calibration.summaries if original is prepared.graph else {}
    return QuantizedModel(network, made.graph, made.qparams, summaries, seconds, original, recovered.steps)


def on_grids(prepared: Prepared) -> OnGrids:
    """The network as the point says, before any engine computes it."""
    calibration, qparams = _sequential(prepared) if prepared.point.sequential else _one_pass(prepared)
    return _counted(recover_model(prepared, OnGrids(calibration.graph, qparams)))


def _counted(recovered: Recovered) -> OnGrids:
    """With the weights that count, where a recovery left them beside their grids."""
    return recovered.on_grids() if recovered.steps else recovered.quantized


def _by_flow(prepared: Prepared, flow: Flow, began: float) -> QuantizedModel:
    point, images = prepared.point, prepared.images
    observer = point.settings["observer"]["name"]
    network, qparams = flow.quantize(prepared.model.module, lambda: shown_batches(images, point.device), observer)
    return QuantizedModel(network, prepared.graph, qparams, {}, time.perf_counter() - began, prepared.graph)


def shown_batches(images: CalibrationImages, device: torch.device) -> Iterator[Tensor]:
    """The batches of a calibration, whose progress a command can show."""
    return tracked(images.batches(device), "calibration", math.ceil(len(images.indices) / images.batch_size))


def _sequential(prepared: Prepared) -> tuple[Calibration, Mapping[str, QParams]]:
    point = prepared.point
    return calibrate_sequentially(
        prepared.graph,
        shown_batches(prepared.images, point.device),
        prepared.specs,
        point.observer,
        point.weight_observer,
        point.update_batch_norm,
    )


def _one_pass(prepared: Prepared) -> tuple[Calibration, Mapping[str, QParams]]:
    point, graph, specs = prepared.point, prepared.graph, prepared.specs
    calibration = _calibration(prepared.model, point.fusion, prepared.images, point.device, point.settings["cache_dir"])
    weight_specs = tuple((weight.name, specs[weight.name]) for weight in graph.weights if weight.name in specs)
    weights = _weight_qparams(prepared.model, point.fusion, weight_specs, point.weight_observer)
    activations = choose_activation_qparams(calibration, specs, point.observer)
    return calibration, point.scheme.tied(graph, activations | weights)


@functools.lru_cache(maxsize=len(Fusion))
def _calibration(
    model: LoadedModel, fusion: Fusion, images: CalibrationImages, device: torch.device, cache_dir: str
) -> Calibration:
    """The float pass, from the memory of this process, from the cache folder, or made now."""
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
        graph, collected_once(key, cache_dir, lambda: calibrate(graph, shown_batches(images, device)).summaries)
    )


@functools.lru_cache(maxsize=8)
def _weight_qparams(
    model: LoadedModel, fusion: Fusion, specs: tuple[tuple[str, QuantSpec], ...], observer: Observer
) -> dict[str, QParams]:
    """The quantization parameters of the weights, which all points share that differ in their activations."""
    return choose_weight_qparams(model.graph(fusion), dict(specs), observer)
