"""Every calibrated grid as a table: one row per tensor and channel."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from torch import Tensor

from quant_sweep.arithmetic.affine import clipped_fraction, fake_quantize, sqnr_db_of_values
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import QuantGraph
from quant_sweep.histograms.expected_error import clipped_fraction_of, sqnr_db_of
from quant_sweep.histograms.summary import Summary

COLUMNS = ["name", "kind", "channel", "bits", "scale", "zero_point", "lo", "hi", "clipped_fraction", "sqnr_db"]


def qparams_table(
    graph: QuantGraph,
    qparams: Mapping[str, QParams],
    summaries: Mapping[str, Summary],
    original: QuantGraph | None = None,
) -> pd.DataFrame:
    """The grids and what they do to the tensors.

    Args:
        graph: whose weights are rounded to their grids.
        original: the float network, where `graph` has other weights than it.

    Columns: name; kind (weight or activation); channel (missing if per tensor); bits; scale (real units per code);
    zero_point; lo and hi, the ends of the grid in real units; clipped_fraction, the share of values that saturation
    moves; sqnr_db. The last two are computed from the values of a weight and, for an activation, from its calibration
    histogram; they are missing where there is none.
    """
    weights = {quantizer.name: graph.graph.constants[quantizer.name] for quantizer in graph.weights}
    before = weights if original is None else original.graph.constants
    blocks = [
        _block(name, grid, *_weight_errors(before[name], weights[name], grid), kind="weight")
        if name in weights
        else _block(name, grid, *_activation_errors(summaries.get(name), grid), kind="activation")
        for name, grid in qparams.items()
    ]
    table = pd.DataFrame({column: np.concatenate([block[column] for block in blocks]) for column in COLUMNS})
    return table.astype({"channel": "Int64"})


def _weight_errors(original: Tensor, weight: Tensor, grid: QParams) -> tuple[Tensor, Tensor]:
    return clipped_fraction(original, grid), sqnr_db_of_values(original, grid, fake_quantize(weight, grid))


def _activation_errors(summary: Summary | None, grid: QParams) -> tuple[Tensor | None, Tensor | None]:
    if summary is None:
        return None, None
    return clipped_fraction_of(summary.total, grid), sqnr_db_of(summary.total, grid)


def _block(
    name: str, grid: QParams, clipped: Tensor | None, sqnr: Tensor | None, kind: str
) -> dict[str, npt.NDArray[Any]]:
    """The rows of one tensor: by column, (channels,) or (1,)."""
    rows = grid.scale.numel()
    per_channel, missing = grid.scale.dim() == 1, np.full(rows, np.nan)
    of_channel = {"scale": grid.scale, "zero_point": grid.zero_point, "lo": grid.lo, "hi": grid.hi}
    errors = {"clipped_fraction": clipped, "sqnr_db": sqnr}
    return {
        "name": np.full(rows, name, dtype=object),
        "kind": np.full(rows, kind, dtype=object),
        "bits": np.full(rows, grid.spec.bits),
        "channel": np.arange(rows, dtype=np.float64) if per_channel else missing,
        **{column: value.reshape(-1).numpy() for column, value in of_channel.items()},
        **{column: missing if value is None else value.reshape(-1).numpy() for column, value in errors.items()},
    }
