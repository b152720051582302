"""Blocks that the Markdown report and the HTML page share: tables of sections, and how to read them."""

from __future__ import annotations

from collections.abc import Sequence

from quant_sweep.report.document import Block, Heading, Items, Paragraph, Table
from quant_sweep.report.escape import code
from quant_sweep.report.kernels import NOTE, agreement_rows
from quant_sweep.report.measured import Metric
from quant_sweep.report.points import Point
from quant_sweep.report.recovery import NOTE as RECOVERY_NOTE
from quant_sweep.report.recovery import recovery_rows
from quant_sweep.report.sections import Cell, Section, is_axis, shared_params
from quant_sweep.report.study import STUDY, study_rows

TITLE = "Quantization report"
_NOTES = {
    "failed": "`failed`: the run raised an error, listed below.",
    "killed": "`killed`: the run was stopped before its end.",
    "running": "`running`: started and not ended; a run whose process was killed looks so until it is started again.",
    "incomplete": "`incomplete`: finished without a value or a number of test samples.",
    "–": "`–`: nobody ran it.",
}


def pivot(section: Section) -> Table:
    """The table of a section, the best of each row strong."""
    rows, strong = [("float", *_original(section))], set[tuple[int, int]]()
    for y, row in enumerate(section.rows, start=1):
        rows.append((str(row), *(_text(section.cells[row, column]) for column in section.columns)))
        strong |= {(y, x) for x, column in enumerate(section.columns, start=1) if column in section.best(row)}
    return Table(("bits", *section.columns), tuple(rows), frozenset(strong))


def _original(section: Section) -> list[str]:
    return [str(section.original) if section.original else "–"] * len(section.columns)


def _text(cell: Cell) -> str:
    return str(cell.measured) if cell.measured else cell.status


def reading(sections: Sequence[Section]) -> Items:
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
        f"{capital(metric.label)}{unit} with its 95 % interval ({how}){better}; the best observer of each row is bold."
    )


def measured_by(sections: Sequence[Section]) -> str:
    """What all sections show."""
    labels = {section.metric.label for section in sections}
    return labels.pop() if len(labels) == 1 else "results"


def shared_settings(points: Sequence[Point]) -> list[Block]:
    named = [code(f"{name}={value}") for name, value in shared_params(points).items() if not is_axis(name)]
    return [Paragraph(f"The same in all runs: {', '.join(named)}.")] if named else []


def study_blocks(points: Sequence[Point]) -> list[Block]:
    rows = study_rows(points)
    return [Heading("The original study's table"), Paragraph(STUDY), as_table(rows)] if rows else []


def recovery_blocks(points: Sequence[Point]) -> list[Block]:
    rows = recovery_rows(points)
    words = ("settings", "left out")
    return [Heading("What recovery won"), Paragraph(RECOVERY_NOTE), as_table(rows, words)] if rows else []


def kernel_blocks(points: Sequence[Point]) -> list[Block]:
    rows = agreement_rows(points)
    return [Heading("Integer kernels against simulation"), Paragraph(NOTE), as_table(rows)] if rows else []


def unusable_blocks(runs: Sequence[tuple[Point, str]]) -> list[Block]:
    """Runs of the experiment that no sweep of ours has written, or that somebody changed."""
    rows = tuple((point.run_id, why) for point, why in runs)
    if not rows:
        return []
    text = "These runs are in the experiment, and no result can be read from them; they count nowhere above."
    return [Heading("Unusable runs"), Paragraph(text), Table(("run", "why"), rows, words=("why",))]


def as_table(rows: Sequence[dict[str, str]], words: tuple[str, ...] = ()) -> Table:
    """A table of rows that all have the same keys, its headers."""
    return Table(tuple(rows[0]), tuple(tuple(row.values()) for row in rows), words=words)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]
