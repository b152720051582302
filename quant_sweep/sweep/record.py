"""What is written of a result: metrics, tables and tags of one MLflow run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from quant_sweep.evaluation.agreement import EngineAgreement
from quant_sweep.evaluation.evaluate import Evaluation
from quant_sweep.evaluation.model_size import float_megabytes, quantized_megabytes
from quant_sweep.evaluation.qparams_table import qparams_table
from quant_sweep.graph import QuantGraph
from quant_sweep.recovery import Step
from quant_sweep.report.escape import csv_safe
from quant_sweep.sweep.prepare import Prepared
from quant_sweep.sweep.quantize_model import QuantizedModel
from quant_sweep.tracking import FinishedRun, Recorder, Tracker

_PREDICTIONS = "predictions.csv"
_LONGEST_TAG = 4000  # characters; MLflow takes 8000


def record_float(record: Recorder, model: nn.Module, evaluation: Evaluation) -> None:
    """The float network's accuracy, speed and size, and its class for each test image."""
    record.metrics({**_measured(evaluation), "model_size_mb": float_megabytes(model)})
    record.table(_predictions({"float_prediction": evaluation}), _PREDICTIONS)


def recorded_float(tracker: Tracker, run: FinishedRun, labels: Tensor) -> Evaluation | None:
    """What `record_float` left in a finished run; None where its predictions are damaged or gone.

    Args:
        labels: of the test images, int64 (n,).
    """
    path = tracker.load_artifact(run.run_id, _PREDICTIONS)
    if path is None:
        return None
    table = pd.read_csv(path)
    predictions = torch.tensor(table["float_prediction"].to_numpy(copy=True))
    return Evaluation(predictions, labels, run.metrics["evaluation_seconds"])


def record_result(
    record: Recorder,
    quantized: QuantizedModel,
    prepared: Prepared,
    evaluation: Evaluation,
    baseline: Evaluation,
) -> None:
    """A quantized network's accuracy beside that in float, its speed and size, and all quantization parameters.

    Those of a tensor with one scale are metrics too, `scale/<name>` and `zero_point/<name>`; of weights per channel
    they are in the table only.
    """
    weights = (weight.name for weight in quantized.graph.weights if weight.name in prepared.specs)
    weight_bits = {name: prepared.specs[name].bits for name in weights}
    metrics = {
        **_measured(evaluation),
        "float_accuracy": baseline.accuracy,
        "drop": baseline.accuracy - evaluation.accuracy,
        "agreement": evaluation.agreement(baseline),
        "calibration_seconds": quantized.calibration_seconds,
        "model_size_mb": quantized_megabytes(quantized.graph, weight_bits),
    }
    for name, grid in quantized.qparams.items():
        if grid.scale.dim() == 0:
            metrics[f"scale/{name}"] = grid.scale.item()
            metrics[f"zero_point/{name}"] = grid.zero_point.item()
    record.metrics(metrics)
    table = qparams_table(quantized.graph, quantized.qparams, quantized.summaries, quantized.original)
    record.table(csv_safe(table), "qparams.csv")
    record.table(_predictions({"prediction": evaluation, "float_prediction": baseline}), _PREDICTIONS)


def record_recovery(record: Recorder, steps: Mapping[str, Step]) -> None:
    """What each recovery did to images that it did not see, its CPU time, and which are not part of the result."""
    if not steps:
        return
    metrics = {"recovery_seconds": sum(step.seconds for step in steps.values())}
    for name, step in steps.items():
        metrics[f"recovery/{name}/damage_before"] = step.before
        metrics[f"recovery/{name}/damage_after"] = step.after
        metrics[f"recovery/{name}/seconds"] = step.seconds
    record.metrics(metrics)
    left_out = [
        f"{name}: damage {step.before:.3g} -> {step.after:.3g}" for name, step in steps.items() if not step.kept
    ]
    if left_out:
        record.tag("recovery_left_out", "; ".join(left_out))


def record_float_weights(record: Recorder, graph: QuantGraph) -> None:
    """Which weights stay in float, and why; nothing where all are quantized."""
    if graph.float_weights:
        text = "; ".join(f"{name}: {why}" for name, why in graph.float_weights.items())
        record.tag("float_weights", _cut(text))


def record_agreement(record: Recorder, agreement: EngineAgreement, float_tensors: Sequence[str]) -> None:
    """How far an integer engine is from the simulation of the same grids.

    Args:
        float_tensors: names of those that the engine computed in float, between codes.
    """
    record.metrics(
        {
            "float_tensors": len(float_tensors),
            "simulate_images": agreement.images,
            "simulate_agreement": agreement.same_class,
            "simulate_largest_lsb": agreement.largest_lsb,
            "simulate_compared_codes": agreement.compared_codes,
            "simulate_differing_codes": agreement.differing,
            **{f"lsb/{name}": largest for name, largest in agreement.lsb.items()},
        }
    )
    record.tag("simulate_first_difference", agreement.first_difference or "none")
    if float_tensors:
        record.tag("float_tensors", _cut(", ".join(float_tensors)))


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST_TAG else f"{text[:_LONGEST_TAG]} ..."


def _measured(evaluation: Evaluation) -> dict[str, float]:
    return {
        "accuracy": evaluation.accuracy,
        "test_images": len(evaluation.labels),
        "evaluation_seconds": evaluation.seconds,
        "images_per_second": evaluation.images_per_second,
    }


def _predictions(evaluations: Mapping[str, Evaluation]) -> pd.DataFrame:
    """One row per test image: its label and each network's class."""
    labels = next(iter(evaluations.values())).labels
    columns = {name: evaluation.predictions.numpy() for name, evaluation in evaluations.items()}
    return pd.DataFrame({"label": labels.numpy(), **columns})
