"""Tables of the report as CSV, with plain values."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from quant_sweep.report.escape import csv_safe
from quant_sweep.report.points import Point
from quant_sweep.report.sections import Section


def pivot_csv(section: Section) -> str:
    """The table of a section with plain values; text where there is none."""
    top = f"{section.original.value}" if section.original else ""
    lines = [["float", *[top] * len(section.columns)]]
    for row in section.rows:
        cells = [section.cells[row, column] for column in section.columns]
        lines.append([str(row), *(f"{cell.measured.value}" if cell.measured else cell.status for cell in cells)])
    return csv_safe(pd.DataFrame(lines, columns=["bits", *section.columns])).to_csv(index=False)


def points_csv(points: Sequence[Point]) -> str:
    """One line per point: status, params, what was measured with its interval, the other metrics, error, run.

    The scales and zero-points of the single tensors are left out; they are in MLflow and in each run's own table.
    """
    rows = []
    for point in points:
        params = {name: point.params[name] for name in sorted(point.params)}
        rows.append(
            {"status": point.status, **params, **_measured(point), "error": point.error, "run_id": point.run_id}
        )
    frame = pd.DataFrame(rows)
    last = ["error", "run_id"]
    return csv_safe(frame[[name for name in frame.columns if name not in last] + last]).to_csv(index=False)


def _measured(point: Point) -> dict[str, float]:
    """The metrics of a finished point; what another one left is no result."""
    measured, name, drop = point.measured, point.metric.name, point.drop
    if measured is None:
        return {}
    found = {name: measured.value}
    if measured.interval:
        found |= {f"{name}_low": measured.interval[0], f"{name}_high": measured.interval[1]}
    if drop and drop.interval:
        found |= {"drop_low": drop.interval[0], "drop_high": drop.interval[1]}
    others = {key: value for key, value in sorted(point.metrics.items()) if "/" not in key and key != name}
    return {**found, **others}
