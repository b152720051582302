"""How few bits can a trained network take, with which calibration, and where does it break?

The names below are the public interface. Each is imported when it is first asked for, so that what needs no torch
loads none.
"""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from quant_sweep.arithmetic.qparams import QParams, QuantSpec
    from quant_sweep.calibration.one_pass import Calibration, calibrate
    from quant_sweep.calibration.sequential import calibrate_sequentially
    from quant_sweep.data import DataSet, ImageSet, calibration_indices
    from quant_sweep.engines import Engine, Int8, Integer, Simulate
    from quant_sweep.errors import InputError
    from quant_sweep.evaluation.allocate import allocate
    from quant_sweep.evaluation.budget import Budget
    from quant_sweep.evaluation.evaluate import Evaluation, evaluate
    from quant_sweep.evaluation.metrics import (
        PSNR,
        Agreement,
        Custom,
        LogitSQNR,
        MeanIoU,
        Metric,
        SquaredError,
        Top1,
        TopK,
        metric,
    )
    from quant_sweep.evaluation.search_widths import Allocation
    from quant_sweep.graph import Fusion, QuantGraph, capture
    from quant_sweep.models.packed import packed, takes_packed
    from quant_sweep.observers import MSE, Entropy, FakeHist, Hist, MinMax, MovingAverage, Observer
    from quant_sweep.quantization.quantize import Quantized, quantize
    from quant_sweep.quantization.scheme import AFFINE, Scheme
    from quant_sweep.recovery import Bias, Distill, Reconstruct, Recovery

    __version__: str

__all__ = [
    "AFFINE",
    "MSE",
    "PSNR",
    "Agreement",
    "Allocation",
    "Bias",
    "Budget",
    "Calibration",
    "Custom",
    "DataSet",
    "Distill",
    "Engine",
    "Entropy",
    "Evaluation",
    "FakeHist",
    "Fusion",
    "Hist",
    "ImageSet",
    "InputError",
    "Int8",
    "Integer",
    "LogitSQNR",
    "MeanIoU",
    "Metric",
    "MinMax",
    "MovingAverage",
    "Observer",
    "QParams",
    "QuantGraph",
    "QuantSpec",
    "Quantized",
    "Reconstruct",
    "Recovery",
    "Scheme",
    "Simulate",
    "SquaredError",
    "Top1",
    "TopK",
    "__version__",
    "allocate",
    "calibrate",
    "calibrate_sequentially",
    "calibration_indices",
    "capture",
    "evaluate",
    "metric",
    "packed",
    "quantize",
    "takes_packed",
]

_EXPORTS = {
    "arithmetic.qparams": ("QParams", "QuantSpec"),
    "calibration.one_pass": ("Calibration", "calibrate"),
    "calibration.sequential": ("calibrate_sequentially",),
    "data": ("DataSet", "ImageSet", "calibration_indices"),
    "engines": ("Engine", "Int8", "Integer", "Simulate"),
    "errors": ("InputError",),
    "evaluation.allocate": ("allocate",),
    "evaluation.budget": ("Budget",),
    "evaluation.evaluate": ("Evaluation", "evaluate"),
    "evaluation.metrics": (
        *("PSNR", "Agreement", "Custom", "LogitSQNR", "MeanIoU", "Metric", "SquaredError", "Top1", "TopK", "metric"),
    ),
    "evaluation.search_widths": ("Allocation",),
    "graph": ("Fusion", "QuantGraph", "capture"),
    "models.packed": ("packed", "takes_packed"),
    "observers": ("MSE", "Entropy", "FakeHist", "Hist", "MinMax", "MovingAverage", "Observer"),
    "quantization.quantize": ("Quantized", "quantize"),
    "quantization.scheme": ("AFFINE", "Scheme"),
    "recovery": ("Bias", "Distill", "Reconstruct", "Recovery"),
}
_HOMES = {name: f"{__name__}.{module}" for module, names in _EXPORTS.items() for name in names}

if not TYPE_CHECKING:  # a type checker would take every name for one that exists

    def __getattr__(name: str) -> object:
        if name == "__version__":
            return metadata.version("quant-sweep")
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
