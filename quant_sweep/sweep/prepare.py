"""From the point of a config to what a run works with; the sweep, explain and sensitivity all begin here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.data import CalibrationImages, DataSet, draw_calibration_images
from quant_sweep.engines import Engine
from quant_sweep.errors import InputError
from quant_sweep.evaluation.metrics import Batch
from quant_sweep.graph import QuantGraph, after_clamp
from quant_sweep.quantization.scheme import assign_specs
from quant_sweep.sweep.build import LoadedModel, load_data, load_model
from quant_sweep.sweep.point import Point


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run works with; nothing is calibrated yet.

    Attributes:
        point: its engine and its metric are settled.
        data: test images, and the training images that calibration draws from.
        model: the float network.
        graph: the same with the quantizers of the point's fusion.
        specs: the grid of each of them, by its name.
        images: what calibration will see.
    """

    point: Point
    data: DataSet
    model: LoadedModel
    graph: QuantGraph
    specs: Mapping[str, QuantSpec]
    images: CalibrationImages

    def contents(self) -> dict[str, object]:
        """What decides the numbers of the run, JSON-able: settings, and digests of weights and images."""
        digests = {"model": self.model.digest, "data": self.data.fingerprint, "images": self.images.digest}
        return {**self.point.contents(), **digests}


def prepare(point: Point) -> Prepared:
    """Load what the point names; data set, model and graph are those of earlier points of the process if they can be.

    Raises:
        InputError: a value cannot be used; before any expensive work.
    """
    settings = point.settings
    data = load_data(settings["data"])
    point = point.measuring(data.test.labels)
    model = load_model(settings["model"], data)
    _check_metric(point, model, data)
    graph = model.graph(point.fusion)
    specs = assign_specs(graph, point.scheme, point.widths)
    if point.scheme.same_grid_around_relu and not after_clamp(graph):
        raise InputError(
            f"scheme.same_grid_around_relu=true: with fusion={point.fusion.value} no tensor of this model is rounded "
            "before and after a ReLU; use fusion=bn or none, or leave it out"
        )
    if isinstance(point.engine, Engine):
        point.engine.check(graph, specs)
    wanted = settings["calibration"]
    images = draw_calibration_images(
        *(data, wanted["images"], wanted["batch_size"], settings["seed"], wanted["augment"], wanted["balanced"])
    )
    return Prepared(point.settled(graph, specs), data, model, graph, specs, images)


def _check_metric(point: Point, model: LoadedModel, data: DataSet) -> None:
    """Refuse a metric that the labels do not serve, or that cannot read what the model returns.

    Raises:
        InputError: see above.
    """
    metric, captured, labels = point.metric, model.captured, data.train.labels
    assert metric is not None
    kind = _kind_of(data.test.labels)
    if metric.needs in ("classes", "dense classes") and metric.needs != kind:
        raise InputError(
            f"metric={point.settings['metric']['name']}: needs {metric.needs} for labels, and the data has {kind}; "
            f"allowed are {', '.join(_ALLOWED[kind])} and custom"
        )
    some = Batch(
        captured.outputs,
        captured.outputs,
        captured.images,
        None if labels is None else labels[: len(captured.images)],
    )
    try:
        metric.check(some, len(data.classes))
    except InputError as error:
        message = str(error)
        if "=" in message.split(":")[0] or message.startswith("metric."):
            raise
        raise InputError(f"model={point.settings['model']['name']}: {message}") from error


_ALLOWED = {
    "none": ("agreement", "logit_sqnr", "mse", "psnr"),
    "classes": ("top1", "topk", "agreement", "logit_sqnr"),
    "dense classes": ("miou", "agreement", "logit_sqnr"),
    "targets": ("mse", "psnr", "logit_sqnr"),
}


def _kind_of(labels: Tensor | None) -> str:
    """What labels are."""
    if labels is None:
        return "none"
    if labels.is_floating_point():
        return "targets"
    return "classes" if labels.dim() == 1 else "dense classes"
