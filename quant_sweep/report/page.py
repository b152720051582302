"""Sections -> the report as a document, and each table as CSV."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

import pandas as pd

from quant_sweep.report.answer import fewest_bits, short_result, subjects, title_of
from quant_sweep.report.document import Block, Document, Heading, Items, Paragraph, Picture, Table
from quant_sweep.report.escape import code, csv_safe
from quant_sweep.report.kernels import NOTE, agreement_rows
from quant_sweep.report.measured import Metric
from quant_sweep.report.plots import heat_map, metric_figure
from quant_sweep.report.points import Point
from quant_sweep.report.recovery import NOTE as RECOVERY_NOTE
from quant_sweep.report.recovery import recovery_rows
from quant_sweep.report.remarks import remarks
from quant_sweep.report.sections import Cell, Section, is_axis, shared_params
from quant_sweep.report.study import STUDY, study_rows

_TITLE = "Quantization report"
_NOTES = {
    "failed": "`failed`: the run raised an error, listed below.",
    "killed": "`killed`: the run was stopped before its end.",
    "running": "`running`: started and not ended; a run whose process was killed looks so until it is started again.",
    "incomplete": "`incomplete`: finished without a value or a number of test samples.",
    "–": "`–`: nobody ran it.",
}


def page(sections: Sequence[Section], points: Sequence[Point], unusable: Sequence[tuple[Point, str]] = ()) -> Document:
    """The whole report; its pictures have files.

    Args:
        unusable: runs that are in no section, each with the reason.
    """
    if not points:
        nothing = Paragraph("No points yet: no run of a sweep is in this experiment.")
        return Document(_TITLE, (nothing, *_unusable(unusable)))
    observers = sorted({column for section in sections for column in section.columns})
    blocks: list[Block] = [
        *_study(points),
        *_answers(sections),
        Heading(f"{_capital(_measured_by(sections))} by bits and observer"),
        _reading(sections),
        *_shared(points),
        *map(Paragraph, remarks(points)),
    ]
    for section in sections:
        blocks += [Heading(section.title, level=3), pivot(section), *_noise(section)]
        if section.mixed:
            differ = "accuracies" if section.metric.name == "accuracy" else "values"
            blocks.append(Paragraph(f"Beware: these runs saw different float models (their float {differ} differ)."))
        curves, heat = partial(metric_figure, section, observers), partial(heat_map, section)
        blocks.append(
            Picture(f"{section.metric.label} against bits", curves, f"{_prefix(section.metric)}_{section.slug}.png")
        )
        blocks.append(Picture("heat map", heat, f"heatmap_{section.slug}.png"))
    blocks += [*_recovery(points), *_kernels(points), *_errors(sections), *_unusable(unusable)]
    return Document(_TITLE, tuple(blocks))


def pivot(section: Section) -> Table:
    """The table of a section, the best of each row strong."""
    rows, strong = [("float", *_original(section))], set[tuple[int, int]]()
    for y, row in enumerate(section.rows, start=1):
        rows.append((str(row), *(_text(section.cells[row, column]) for column in section.columns)))
        strong |= {(y, x) for x, column in enumerate(section.columns, start=1) if column in section.best(row)}
    return Table(("bits", *section.columns), tuple(rows), frozenset(strong))


def _noise(section: Section) -> list[Block]:
    """How much noise the outputs have, where labels do not say how much it matters."""
    known = any(cell.logit_sqnr is not None for cell in section.cells.values())
    if not known or section.metric.name in ("accuracy", "logit_sqnr"):
        return []
    rows = [(str(row), *(_ratio(section.cells[row, column]) for column in section.columns)) for row in section.rows]
    text = "Logit SQNR, the signal-to-quantization-noise ratio of the outputs against those in float, dB:"
    return [Paragraph(text), Table(("bits", *section.columns), tuple(rows))]


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


def _study(points: Sequence[Point]) -> list[Block]:
    rows = study_rows(points)
    return [Heading("The original study's table"), Paragraph(STUDY), _table(rows)] if rows else []


def _answers(sections: Sequence[Section]) -> Iterator[Block]:
    for group in subjects(sections):
        yield Heading(f"Short result: {title_of(group)}")
        yield Paragraph(fewest_bits(group))
        yield _table(short_result(group), words=("Settings",))


def _reading(sections: Sequence[Section]) -> Items:
    """How to read the tables; only what occurs in them is explained."""
    seen = {cell.status for section in sections for cell in section.cells.values()}
    metrics = list(dict.fromkeys(section.metric for section in sections))
    images = "images" if [metric.name for metric in metrics] == ["accuracy"] else "samples"
    return Items(
        (
            *map(_explained, metrics),
            f"All runs see the same test {images}: "
            "a difference between two is more certain than their intervals suggest.",
            *(text for status, text in _NOTES.items() if status in seen),
        )
    )


def _explained(metric: Metric) -> str:
    """One line on what the numbers of a metric are."""
    unit = {"%": " in percent", "": ""}.get(metric.unit, f" in {metric.unit}")
    how = "Wilson" if metric.proportion else "1.96 standard errors on each side"
    better = "" if metric.name == "accuracy" else f", {metric.direction}"
    return (
        f"{_capital(metric.label)}{unit} with its 95 % interval ({how}){better}; the best observer of each row is bold."
    )


def _measured_by(sections: Sequence[Section]) -> str:
    """What all sections show."""
    labels = {section.metric.label for section in sections}
    return labels.pop() if len(labels) == 1 else "results"


def _prefix(metric: Metric) -> str:
    """Of the names of files that show a metric."""
    if metric.name == "accuracy":
        return metric.name
    return f"metric_{re.sub(r'[^A-Za-z0-9]+', '_', metric.name)}"


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _shared(points: Sequence[Point]) -> list[Block]:
    named = [code(f"{name}={value}") for name, value in shared_params(points).items() if not is_axis(name)]
    return [Paragraph(f"The same in all runs: {', '.join(named)}.")] if named else []


def _recovery(points: Sequence[Point]) -> list[Block]:
    rows = recovery_rows(points)
    words = ("settings", "left out")
    return [Heading("What recovery won"), Paragraph(RECOVERY_NOTE), _table(rows, words)] if rows else []


def _kernels(points: Sequence[Point]) -> list[Block]:
    rows = agreement_rows(points)
    return [Heading("Integer kernels against simulation"), Paragraph(NOTE), _table(rows)] if rows else []


def _errors(sections: Sequence[Section]) -> list[Block]:
    rows = tuple(
        (section.title, str(row), column, cell.error)
        for section in sections
        for (row, column), cell in section.cells.items()
        if cell.error and cell.measured is None
    )
    headers = ("section", "bits", "observer", "error")
    return [Heading("Errors"), Table(headers, rows, words=("observer", "error"))] if rows else []


def _unusable(runs: Sequence[tuple[Point, str]]) -> list[Block]:
    """Runs of the experiment that no sweep of ours has written, or that somebody changed."""
    rows = tuple((point.run_id, why) for point, why in runs)
    if not rows:
        return []
    text = "These runs are in the experiment, and no result can be read from them; they count nowhere above."
    return [Heading("Unusable runs"), Paragraph(text), Table(("run", "why"), rows, words=("why",))]


def _original(section: Section) -> list[str]:
    return [str(section.original) if section.original else "–"] * len(section.columns)


def _ratio(cell: Cell) -> str:
    return "–" if cell.logit_sqnr is None else f"{cell.logit_sqnr:.1f}"


def _text(cell: Cell) -> str:
    return str(cell.measured) if cell.measured else cell.status


def _table(rows: Sequence[dict[str, str]], words: tuple[str, ...] = ()) -> Table:
    """A table of rows that all have the same keys, its headers."""
    return Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows), words=words)
