"""Sections -> the report as Markdown, and each table as CSV."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from tabulate import tabulate

from quant_sweep.report.answer import fewest_bits, short_result, subjects
from quant_sweep.report.kernels import NOTE, agreement_rows
from quant_sweep.report.points import Point
from quant_sweep.report.remarks import remarks
from quant_sweep.report.sections import Cell, Section, is_axis, shared_params
from quant_sweep.report.study import STUDY, study_rows

EMPTY = "# Quantization report\n\nNo points yet: no run of a sweep is in this experiment.\n"
_NOTES = {
    "failed": "`failed`: the run raised an error, listed below.",
    "killed": "`killed`: the run was stopped before its end.",
    "running": "`running`: started and not ended; a run whose process was killed looks so until it is started again.",
    "incomplete": "`incomplete`: finished without an accuracy or a number of test images.",
    "–": "`–`: nobody ran it.",
}


def page(sections: Sequence[Section], points: Sequence[Point], pictures: bool) -> str:
    """The whole report. `pictures` adds links to the image files beside it."""
    parts = [
        "# Quantization report",
        *_study(points),
        *_answers(sections),
        "## Accuracy by bits and observer",
        _reading(sections),
    ]
    if shared := shared_params(points):
        parts.append(
            "The same in all runs: "
            + ", ".join(f"`{name}={value}`" for name, value in shared.items() if not is_axis(name))
            + "."
        )
    parts += remarks(points)
    for section in sections:
        parts += [f"### {section.title}", pivot_markdown(section)]
        if section.mixed:
            parts.append("Beware: these runs saw different float models (their float accuracies differ).")
        if pictures:
            parts.append(f"![accuracy against bits](accuracy_{section.slug}.png)")
            parts.append(f"![heat map](heatmap_{section.slug}.png)")
    return "\n\n".join(parts + _kernels(points) + _errors(sections)) + "\n"


def pivot_markdown(section: Section) -> str:
    """The table of a section, the best of each row in bold."""
    lines = []
    for row in section.rows:
        best = section.best(row)
        texts = [_text(section.cells[row, column]) for column in section.columns]
        marked = [
            f"**{text}**" if column in best else text for column, text in zip(section.columns, texts, strict=True)
        ]
        lines.append([str(row), *marked])
    return _table([["float", *_original(section)], *lines], ["bits", *section.columns])


def pivot_csv(section: Section) -> str:
    """The table of a section with plain accuracies; text where there is none."""
    top = f"{section.original.percent}" if section.original else ""
    lines = [["float", *[top] * len(section.columns)]]
    for row in section.rows:
        cells = [section.cells[row, column] for column in section.columns]
        lines.append([str(row), *(f"{cell.accuracy.percent}" if cell.accuracy else cell.status for cell in cells)])
    return pd.DataFrame(lines, columns=["bits", *section.columns]).to_csv(index=False)


def points_csv(points: Sequence[Point]) -> str:
    """One line per point: status, params, accuracy with its interval, the other metrics, error, run.

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
    return frame[[name for name in frame.columns if name not in last] + last].to_csv(index=False)


def _measured(point: Point) -> dict[str, float]:
    """The metrics of a finished point; what another one left is no result."""
    if point.accuracy is None:
        return {}
    low, high = point.accuracy.interval
    others = {name: value for name, value in sorted(point.metrics.items()) if "/" not in name and name != "accuracy"}
    return {"accuracy": point.accuracy.percent, "accuracy_low": low, "accuracy_high": high, **others}


def _study(points: Sequence[Point]) -> list[str]:
    rows = study_rows(points)
    if not rows:
        return []
    return ["## The original study's table", STUDY, _table([list(row.values()) for row in rows], list(rows[0]))]


def _answers(sections: Sequence[Section]) -> list[str]:
    parts = []
    for group in subjects(sections):
        rows = short_result(group)
        table = _table([list(row.values()) for row in rows], list(rows[0]))
        name = f"{group[0].subject.get('model', 'model')} on {group[0].subject.get('data', 'data')}"
        parts += [f"## Short result: {name}", fewest_bits(group), table]
    return parts


def _reading(sections: Sequence[Section]) -> str:
    """How to read the tables; only what occurs in them is explained."""
    seen = {cell.status for section in sections for cell in section.cells.values()}
    lines = [
        "- Accuracy in percent with its 95 % interval (Wilson); the best observer of each row is bold.",
        "- All runs see the same test images: a difference between two is more certain than their intervals suggest.",
        *(f"- {text}" for status, text in _NOTES.items() if status in seen),
    ]
    return "\n".join(lines)


def _kernels(points: Sequence[Point]) -> list[str]:
    rows = agreement_rows(points)
    if not rows:
        return []
    return ["## Integer kernels against simulation", NOTE, _table([list(row.values()) for row in rows], list(rows[0]))]


def _errors(sections: Sequence[Section]) -> list[str]:
    rows = [
        [section.title, str(row), column, cell.error.replace("|", "\\|")]
        for section in sections
        for (row, column), cell in section.cells.items()
        if cell.error and cell.accuracy is None
    ]
    return ["## Errors", _table(rows, ["section", "bits", "observer", "error"])] if rows else []


def _original(section: Section) -> list[str]:
    return [str(section.original) if section.original else "–"] * len(section.columns)


def _text(cell: Cell) -> str:
    return str(cell.accuracy) if cell.accuracy else cell.status


def _table(rows: list[list[str]], headers: list[str]) -> str:
    return str(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True))
