"""The report as one HTML page that can be sent: all of the Markdown report, drawn, and what explains it.

Beside the tables: model size, seconds, what failed or is missing, the steps of recoveries, the command and the machine.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quant_sweep.report.answer import fewest_bits, short_result, subjects, title_of
from quant_sweep.report.blocks import (
    TITLE,
    as_table,
    capital,
    kernel_blocks,
    pivot,
    reading,
    recovery_blocks,
    shared_settings,
    study_blocks,
    unusable_blocks,
)
from quant_sweep.report.curves import curve, front_of, scatter
from quant_sweep.report.document import Block, Document, Heading, Links, Paragraph, Table
from quant_sweep.report.origin import Origin
from quant_sweep.report.points import Bits, Point
from quant_sweep.report.remarks import remarks
from quant_sweep.report.sections import Section

MORE = Heading("More on the same model")
_FEWEST_ROWS = 2  # of bits, to be drawn as a curve
_SECONDS = ("calibration_seconds", "evaluation_seconds")


def html_page(
    sections: Sequence[Section],
    points: Sequence[Point],
    unusable: Sequence[tuple[Point, str]],
    origin: Origin,
    links: Sequence[tuple[str, str]] = (),
) -> Document:
    """The whole page.

    Args:
        unusable: runs that are in no section, each with the reason.
        origin: what made the runs, and which jobs failed before they had one.
        links: pages on the same models, (text, relative path).
    """
    groups = subjects(sections)
    intro = [Paragraph(fewest_bits(group)) for group in groups] or [Paragraph("No points yet.")]
    blocks: list[Block] = [*intro]
    observers = sorted({column for section in sections for column in section.columns})
    for group in groups:
        blocks += _results(group, observers)
    if points:
        blocks += [Heading("How to read the tables"), reading(sections), *shared_settings(points)]
    blocks += [*_sizes(groups), *_pages(links), *recovery_blocks(points), *_steps(points), *_seconds(sections)]
    blocks += [*kernel_blocks(points), *_remarks(points), *_gaps(sections, origin), *study_blocks(points)]
    blocks += [*unusable_blocks(unusable), *_origin(origin)]
    return Document(TITLE, tuple(blocks))


def _results(group: Sequence[Section], observers: Sequence[str]) -> Iterator[Block]:
    """What one model reached: curves, tables and the short table."""
    yield Heading(f"{capital(group[0].metric.label)}: {title_of(group)}")
    yield from (curve(section, observers) for section in group if len(section.rows) >= _FEWEST_ROWS)
    for section in group:
        if section.setting:
            yield Heading(section.setting, level=3)
        yield pivot(section)
        if section.mixed:
            yield Paragraph("Beware: these runs saw different float models (their float results differ).")
    yield Heading("The best of each way", level=3)
    yield as_table(short_result(group), words=("Settings",))


def _sizes(groups: Sequence[Sequence[Section]]) -> Iterator[Block]:
    charts = [chart for group in groups if (chart := scatter(group)) is not None]
    if not charts:
        return
    yield Heading("Against the size of the model")
    yield Paragraph("On the Pareto front lies what no other run beats in both; size is that of weights and scales.")
    yield from charts
    for group in groups:
        front = front_of(group)
        rows = tuple((str(p.row), p.where, f"{p.size:.3g} MB", str(p.measured)) for p in front)
        if rows:
            yield Heading(f"Pareto front: {title_of(group)}", level=3)
            yield Table(("bits", "run", "size", group[0].metric.label), rows, words=("run",))


def _pages(links: Sequence[tuple[str, str]]) -> list[Block]:
    return [MORE, Links(tuple(links))] if links else []


def _steps(points: Sequence[Point]) -> Iterator[Block]:
    """What each recovery did to the damage of images that it did not see."""
    rows = [row for point in points for row in _steps_of(point)]
    if rows:
        yield Heading("The steps of each recovery", level=3)
        yield Table(
            ("bits", "run", "step", "damage before", "after", "CPU seconds"), tuple(rows), words=("run", "step")
        )


def _steps_of(point: Point) -> Iterator[tuple[str, ...]]:
    metrics = point.metrics
    prefix, before = "recovery/", "/damage_before"
    names = [name[len(prefix) : -len(before)] for name in metrics if name.startswith(prefix) and name.endswith(before)]
    order = point.params.get("recovery", "").split("+")
    for name in sorted(names, key=lambda name: (order.index(name) if name in order else len(order), name)):
        values = (metrics.get(f"{prefix}{name}/{key}") for key in ("damage_before", "damage_after", "seconds"))
        numbers = ("" if value is None else f"{value:.3g}" for value in values)
        yield str(Bits.of(point.params)), _where(point), name, *numbers


def _where(point: Point) -> str:
    return " ".join(point.params.get(name, "") for name in ("model", "observer", "fusion", "recovery")).strip()


def _seconds(sections: Sequence[Section]) -> Iterator[Block]:
    rows = [row for section in sections if (row := _seconds_of(section))]
    if not rows:
        return
    yield Heading("Seconds")
    yield Paragraph(
        "Wall time of calibration and evaluation, as `median (longest)`; a calibration that an earlier run of the same "
        "process made costs the next ones nothing."
    )
    yield Table(("section", "runs", "calibration", "evaluation", "images per second"), tuple(rows))


def _seconds_of(section: Section) -> tuple[str, ...] | None:
    points = [point for point in section.points if set(_SECONDS) <= set(point.metrics) and point.measured]
    if not points:
        return None
    calibration, evaluation = (sorted(point.metrics[name] for point in points) for name in _SECONDS)
    speeds = sorted(point.metrics.get("images_per_second", 0.0) for point in points)
    texts = (f"{_middle(values):.1f} ({values[-1]:.1f})" for values in (calibration, evaluation))
    return section.title, str(len(points)), *texts, f"{_middle(speeds):,.0f}"


def _middle(values: Sequence[float]) -> float:
    return values[len(values) // 2]


def _remarks(points: Sequence[Point]) -> list[Block]:
    lines = remarks(points)
    return [Heading("What stayed in float, and other remarks"), *map(Paragraph, lines)] if lines else []


def _gaps(sections: Sequence[Section], origin: Origin) -> Iterator[Block]:
    """Cells without a result and jobs without a run."""
    rows = [
        (section.title, str(row), column, "nobody ran it" if cell.status == "–" else cell.status, cell.error)
        for section in sections
        for (row, column), cell in section.cells.items()
        if cell.measured is None
    ]
    if rows or origin.failed:
        yield Heading("Failed and missing")
    if rows:
        headers = ("section", "bits", "observer", "status", "error")
        yield Table(headers, tuple(rows), words=("observer", "status", "error"))
    if origin.failed:
        yield Paragraph("Jobs of the newest sweep that failed before they had a run:")
        yield Table(("job", "error"), tuple(origin.failed), words=("job", "error"))


def _origin(origin: Origin) -> Iterator[Block]:
    if not origin.rows:
        return
    yield Heading("Command and environment")
    yield Table(("what", "value"), origin.rows, words=("value",))
