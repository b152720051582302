"""Sections -> the Markdown report as a document, with pictures in files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import partial

from quant_sweep.report.answer import fewest_bits, short_result, subjects, title_of
from quant_sweep.report.blocks import (
    TITLE,
    as_table,
    capital,
    kernel_blocks,
    measured_by,
    pivot,
    reading,
    recovery_blocks,
    shared_settings,
    study_blocks,
    unusable_blocks,
)
from quant_sweep.report.document import Block, Document, Heading, Paragraph, Picture, Table
from quant_sweep.report.measured import Metric
from quant_sweep.report.plots import heat_map, metric_figure
from quant_sweep.report.points import Point
from quant_sweep.report.remarks import remarks
from quant_sweep.report.sections import Cell, Section


def page(sections: Sequence[Section], points: Sequence[Point], unusable: Sequence[tuple[Point, str]] = ()) -> Document:
    """The whole report; its pictures have files.

    Args:
        unusable: runs that are in no section, each with the reason.
    """
    if not points:
        nothing = Paragraph("No points yet: no run of a sweep is in this experiment.")
        return Document(TITLE, (nothing, *unusable_blocks(unusable)))
    observers = sorted({column for section in sections for column in section.columns})
    blocks: list[Block] = [
        *study_blocks(points),
        *_answers(sections),
        Heading(f"{capital(measured_by(sections))} by bits and observer"),
        reading(sections),
        *shared_settings(points),
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
    blocks += [*recovery_blocks(points), *kernel_blocks(points), *_errors(sections), *unusable_blocks(unusable)]
    return Document(TITLE, tuple(blocks))


def _noise(section: Section) -> list[Block]:
    """How much noise the outputs have, where labels do not say how much it matters."""
    known = any(cell.logit_sqnr is not None for cell in section.cells.values())
    if not known or section.metric.name in ("accuracy", "logit_sqnr"):
        return []
    rows = [(str(row), *(_ratio(section.cells[row, column]) for column in section.columns)) for row in section.rows]
    text = "Logit SQNR, the signal-to-quantization-noise ratio of the outputs against those in float, dB:"
    return [Paragraph(text), Table(("bits", *section.columns), tuple(rows))]


def _answers(sections: Sequence[Section]) -> Iterator[Block]:
    for group in subjects(sections):
        yield Heading(f"Short result: {title_of(group)}")
        yield Paragraph(fewest_bits(group))
        yield as_table(short_result(group), words=("Settings",))


def _prefix(metric: Metric) -> str:
    """Of the names of files that show a metric."""
    if metric.name == "accuracy":
        return metric.name
    return f"metric_{re.sub(r'[^A-Za-z0-9]+', '_', metric.name)}"


def _errors(sections: Sequence[Section]) -> list[Block]:
    rows = tuple(
        (section.title, str(row), column, cell.error)
        for section in sections
        for (row, column), cell in section.cells.items()
        if cell.error and cell.measured is None
    )
    headers = ("section", "bits", "observer", "error")
    return [Heading("Errors"), Table(headers, rows, words=("observer", "error"))] if rows else []


def _ratio(cell: Cell) -> str:
    return "–" if cell.logit_sqnr is None else f"{cell.logit_sqnr:.1f}"
