"""What is written of a result: metrics, tables and tags of one MLflow run."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import pandas as pd
import torch
from torch import Tensor, nn

from quant_sweep.data import DataSet
from quant_sweep.errors import NotFiniteError
from quant_sweep.evaluation.agreement import EngineAgreement
from quant_sweep.evaluation.evaluate import Evaluation
from quant_sweep.evaluation.model_size import float_megabytes, quantized_megabytes
from quant_sweep.evaluation.qparams_table import qparams_table
from quant_sweep.graph import QuantGraph
from quant_sweep.recovery import Step
from quant_sweep.report.activations import activations_note, activations_page
from quant_sweep.report.escape import csv_safe
from quant_sweep.sweep.prepare import Prepared
from quant_sweep.sweep.quantize_model import QuantizedModel
from quant_sweep.tracking import Recorder
from quant_sweep.tracking.names import LONGEST_TAG

_PREDICTIONS = "predictions.csv"


def record_float(record: Recorder, model: nn.Module, original: Evaluation, data: DataSet) -> None:
    """What is measured of the float network, its speed and size, and its class for each test sample."""
    metrics = {**_speed(original), "model_size_mb": float_megabytes(model)}
    if original.metric.has_float_value:
        metrics |= _value(original, "")
    record.metrics(metrics | _guessing(original, data.test.labels, ""))
    _record_kind(record, original)
    table, name = _samples({"float_prediction": original}, {"float_value": original})
    record.table(table, name)


def record_result(
    record: Recorder,
    quantized: QuantizedModel,
    prepared: Prepared,
    evaluation: Evaluation,
    original: Evaluation,
    agreement: EngineAgreement | None = None,
) -> None:
    """What is measured of a quantized network beside that in float, its speed and size, and all its grids.

    Those of a tensor with one scale are metrics too, `scale/<name>` and `zero_point/<name>`; of weights per channel
    they are in `qparams.csv` only. `activations.html` is what a person looks up, on one screen; `activations.csv` has
    the same numbers.

    Args:
        agreement: of an engine that computes on integer codes, with the simulation.
    """
    weights = (weight.name for weight in quantized.graph.weights if weight.name in prepared.specs)
    weight_bits = {name: prepared.specs[name].bits for name in weights}
    metrics = {
        **_speed(evaluation),
        **_value(evaluation, ""),
        **_compared(evaluation, original, prepared.data.test.labels),
        "calibration_seconds": quantized.calibration_seconds,
        "model_size_mb": quantized_megabytes(quantized.graph, weight_bits),
    }
    # MLflow's pages sort charts by what stands before the slash, and put those without one last.
    answer = (evaluation.metric.name, f"float_{evaluation.metric.name}", "drop", "agreement")
    metrics |= {f"answer/{name}": metrics[name] for name in dict.fromkeys(answer) if name in metrics}
    for name, grid in quantized.qparams.items():
        if grid.scale.dim() == 0:
            metrics[f"scale/{name}"] = grid.scale.item()
            metrics[f"zero_point/{name}"] = grid.zero_point.item()
    record.metrics(metrics)
    _record_kind(record, evaluation)
    table = qparams_table(quantized.graph, quantized.qparams, quantized.summaries, quantized.original)
    record.table(csv_safe(table), "qparams.csv")
    activations = activations_table(table, quantized.graph, agreement)
    record.table(csv_safe(activations), "activations.csv")
    record.text(activations_page(str(prepared.point), activations), "activations.html")
    record.note(activations_note(activations))
    record_data(record, prepared)
    classes = {"prediction": evaluation, "float_prediction": original}
    record.table(*_samples(classes, {"value": evaluation, "float_value": original}))


def activations_table(table: pd.DataFrame, graph: QuantGraph, agreement: EngineAgreement | None) -> pd.DataFrame:
    """The activations of a table of quantization parameters, and what the comparison with the simulation found.

    Columns: those of `qparams_table` without kind and channel; readers, the layers that see it, a space between them;
    lsb, the largest difference to `simulate` in codes, and differing, the share of the codes that differ, missing where
    nothing was compared.
    """
    rows = table[table["kind"] == "activation"].drop(columns=["kind", "channel"])
    readers = {q.name: " ".join(name.removesuffix(".output") for name in q.readers) for q in graph.activations}
    lsb, shares = (agreement.lsb, agreement.shares) if agreement else ({}, {})
    return rows.assign(
        readers=rows["name"].map(readers).fillna(""),
        lsb=rows["name"].map(lsb).astype("Int64"),
        differing=rows["name"].map(shares).astype(float),
    )


def record_data(record: Recorder, prepared: Prepared) -> None:
    """Which images calibrated and which evaluated: name and fingerprint of the data set."""
    data, settings = prepared.data, prepared.point.shown["data"]
    source = str(settings.get("root") or settings["name"])
    calibration, evaluation = prepared.images.indices, data.test
    record.dataset("calibration", f"{data.name} train", data.fingerprint, source, len(calibration))
    record.dataset("evaluation", f"{data.name} test", data.fingerprint, source, len(evaluation))


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
        }
    )
    record.tag("simulate_first_difference", agreement.first_difference or "none")
    if float_tensors:
        record.tag("float_tensors", _cut(", ".join(float_tensors)))


def _cut(text: str) -> str:
    return text if len(text) <= LONGEST_TAG else f"{text[:LONGEST_TAG]} ..."


def _speed(evaluation: Evaluation) -> dict[str, float]:
    return {
        "test_images": evaluation.samples,
        "evaluation_seconds": evaluation.seconds,
        "images_per_second": evaluation.images_per_second,
    }


def _value(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    """The metric and, unless it is a proportion, whose error follows from its value, its standard error.

    Raises:
        NotFiniteError: it is infinite or no number.
    """
    name, value = f"{prefix}{evaluation.metric.name}", evaluation.value
    if not math.isfinite(value):
        raise NotFiniteError(f"metric={evaluation.metric.name}: is {value}; choose another metric for this network")
    error = None if _is_proportion(evaluation) else evaluation.error
    return {name: value} if error is None else {name: value, f"{name}_error": error}


def _compared(evaluation: Evaluation, original: Evaluation, labels: Tensor | None) -> dict[str, float]:
    """Beside the float network: its value, what was lost, how often both say the same, how much noise there is, and
    what guessing would reach."""
    metrics: dict[str, float] = {}
    if evaluation.metric.has_float_value:
        lost, error = evaluation.drop(original)
        metrics |= {**_value(original, "float_"), "drop": lost}
        if _is_proportion(evaluation):
            assert evaluation.statistics is not None
            assert original.statistics is not None
            metrics["lost"] = int((original.statistics > evaluation.statistics).sum())
            metrics["gained"] = int((original.statistics < evaluation.statistics).sum())
        elif error is not None:
            metrics["drop_error"] = error
    if evaluation.same_class is not None:
        metrics["agreement"] = 100.0 * evaluation.same_class.mean().item()
    if evaluation.logit_sqnr is not None and math.isfinite(evaluation.logit_sqnr):
        metrics["logit_sqnr"] = evaluation.logit_sqnr
    float_classes = original.predictions if evaluation.metric.name == "agreement" else labels
    metrics |= _guessing(evaluation, float_classes, "")
    return {**metrics, **_guessing(original, labels, "float_")}


def _guessing(evaluation: Evaluation, labels: Tensor | None, prefix: str) -> dict[str, float]:
    """How many classes are told apart, and what guesses of their frequencies would reach, percent.

    Guesses that are independent of the labels and as frequent as the predictions are right in
    sum_c p(label c) p(said c) of all cases (Cohen 1960, Educational and Psychological Measurement 20, p. 37-46).
    """
    said = evaluation.predictions
    if said is None:
        return {}
    found: dict[str, float] = {f"{prefix}classes_predicted": len(said.unique())}
    if evaluation.metric.name in ("accuracy", "agreement") and labels is not None and labels.dim() == 1:
        count = 1 + int(torch.cat([said, labels]).max())
        shares = [torch.bincount(part, minlength=count).double() / len(part) for part in (said, labels)]
        found[f"{prefix}chance"] = 100.0 * float(shares[0] @ shares[1])
    return found


def _is_proportion(evaluation: Evaluation) -> bool:
    """Whether each sample is right or wrong; of dense outputs only each position is."""
    return evaluation.metric.kind == "proportion" and evaluation.predictions is not None


def _record_kind(record: Recorder, evaluation: Evaluation) -> None:
    if evaluation.metric.kind == "proportion" and not _is_proportion(evaluation):
        record.tag("metric_kind", "mean")


def _samples(classes: Mapping[str, Evaluation], values: Mapping[str, Evaluation]) -> tuple[pd.DataFrame, str]:
    """One row per test sample, and the name of the table: its label and each network's class; where there are no
    classes, what was measured of it."""
    first = next(iter(values.values()))
    columns = {}
    if first.predictions is not None:
        if first.labels is not None and first.labels.dim() == 1:
            columns["label"] = first.labels.numpy()
        columns |= {name: e.predictions.numpy() for name, e in classes.items() if e.predictions is not None}
        return pd.DataFrame(columns), _PREDICTIONS
    for name, evaluation in values.items():
        if evaluation.statistics is not None and evaluation.statistics.shape[1] == 1:
            columns[name] = evaluation.statistics[:, 0].numpy()
    return pd.DataFrame(columns), "samples.csv"
