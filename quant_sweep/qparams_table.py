"""Every calibrated grid as a table: one row per tensor and channel."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from torch import Tensor

from quant_sweep.affine import clipped_fraction, sqnr_db
from quant_sweep.expected_error import clipped_fraction_of, sqnr_db_of
from quant_sweep.graph import QuantGraph
from quant_sweep.spec import QParams
from quant_sweep.summary import Summary

COLUMNS = ["name", "kind", "channel", "bits", "scale", "zero_point", "lo", "hi", "clipped_fraction", "sqnr_db"]


def qparams_table(graph: QuantGraph, qparams: Mapping[str, QParams], summaries: Mapping[str, Summary]) -> pd.DataFrame:
    """The grids and what they do to the tensors.

    Columns: name; kind (weight or activation); channel (missing if per tensor); bits; scale (real units per code);
    zero_point; lo and hi, the ends of the grid in real units; clipped_fraction, the share of values that saturation
    moves; sqnr_db. The last two are computed from the values of a weight and, for an activation, from its calibration
    histogram; they are missing where there is none.
    """
    weights = {point.name: graph.module.get_parameter(point.name).detach() for point in graph.weights}
    frames = [
        _rows(name, grid, *_weight_errors(weights[name], grid), kind="weight")
        if name in weights
        else _rows(name, grid, *_activation_errors(summaries.get(name), grid), kind="activation")
        for name, grid in qparams.items()
    ]
    return pd.concat(frames, ignore_index=True)[COLUMNS]


def _weight_errors(weight: Tensor, grid: QParams) -> tuple[Tensor, Tensor]:
    return clipped_fraction(weight, grid), sqnr_db(weight, grid)


def _activation_errors(summary: Summary | None, grid: QParams) -> tuple[Tensor | None, Tensor | None]:
    if summary is None:
        return None, None
    return clipped_fraction_of(summary.total, grid), sqnr_db_of(summary.total, grid)


def _rows(name: str, grid: QParams, clipped: Tensor | None, sqnr: Tensor | None, kind: str) -> pd.DataFrame:
    per_channel = grid.scale.dim() == 1
    columns = {"scale": grid.scale, "zero_point": grid.zero_point, "lo": grid.lo, "hi": grid.hi}
    frame = pd.DataFrame({key: value.reshape(-1).numpy() for key, value in columns.items()})
    frame["name"], frame["kind"], frame["bits"] = name, kind, grid.spec.bits
    frame["channel"] = pd.array(range(len(frame)) if per_channel else [None], dtype="Int64")
    frame["clipped_fraction"] = None if clipped is None else clipped.reshape(-1).numpy()
    frame["sqnr_db"] = None if sqnr is None else sqnr.reshape(-1).numpy()
    return frame
