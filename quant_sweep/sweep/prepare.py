"""From the point of a config to what a run works with; the sweep, explain and sensitivity all begin here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.data import CalibrationImages, DataSet, draw_calibration_images
from quant_sweep.engines import Engine
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph, after_clamp
from quant_sweep.quantization.scheme import assign_specs
from quant_sweep.sweep.build import LoadedModel, load_data, load_model
from quant_sweep.sweep.point import Point


@dataclass(frozen=True, eq=False)
class Prepared:
    """What a run works with; nothing is calibrated yet.

    Attributes:
        point: its engine is settled.
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
    model = load_model(settings["model"], data)
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
