"""Charts of the HTML page: a metric against bits, and against the size of the model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from quant_sweep.report.answer import title_of
from quant_sweep.report.document import Chart, Mark, Series
from quant_sweep.report.measured import Measured, Metric
from quant_sweep.report.points import Bits, Point
from quant_sweep.report.sections import Section

_SPREAD = 0.05  # of the distance between two widths: keeps intervals apart


def curve(section: Section, observers: Sequence[str]) -> Chart:
    """One line per observer with 95 % intervals, fewer bits to the right, float across.

    Args:
        observers: all of the report; the position of one chooses its colour and shape.
    """
    metric = section.metric
    series = []
    for index, column in enumerate(section.columns):
        shift = (index - (len(section.columns) - 1) / 2) * _SPREAD
        marks = tuple(
            _mark(x + shift, measured, f"{column}, {row} bit")
            if (measured := section.cells[row, column].measured)
            else None
            for x, row in enumerate(section.rows)
        )
        series.append(Series(column, observers.index(column), marks))
    reference = None
    if section.original:
        label = f"float {section.original.with_unit}"
        reference = (section.original.value, section.original.interval, label)
    return Chart(
        title=section.title,
        alt=f"{metric.label} against bits, one line per observer; the table has the numbers",
        x_label="bits",
        y_label=_in_unit(metric),
        series=tuple(series),
        ticks=tuple((float(x), str(row)) for x, row in enumerate(section.rows)),
        reference=reference,
    )


@dataclass(frozen=True)
class Sized:
    """A finished run whose size is known."""

    row: Bits
    where: str
    size: float  # MB
    measured: Measured


def sized(group: Sequence[Section]) -> list[Sized]:
    """The runs of one model on its data, smallest first and of these the best."""
    found = [
        Sized(
            Bits.of(point.params),
            _where(point, section, len(group) > 1),
            point.metrics["model_size_mb"],
            point.measured,
        )
        for section in group
        for point in section.points
        if point.measured and not point.collapsed and "model_size_mb" in point.metrics
    ]
    return sorted(found, key=lambda run: (run.size, -run.measured.metric.goodness(run.measured.value), run.where))


def front_of(group: Sequence[Section]) -> list[Sized]:
    """Those of `sized` that no other beats in both size and metric."""
    front: list[Sized] = []
    for run in sized(group):
        goodness = run.measured.metric.goodness
        if not front or goodness(run.measured.value) > goodness(front[-1].measured.value):
            front.append(run)
    return front


def scatter(group: Sequence[Section]) -> Chart | None:
    """Every run by its size, and the front; None where no more than one size is known."""
    runs = sized(group)
    if len({run.size for run in runs}) < 2:
        return None
    metric = runs[0].measured.metric
    widths = sorted({run.row for run in runs}, reverse=True)
    series = tuple(
        Series(
            f"{width} bit",
            style,
            tuple(
                _mark(run.size, run.measured, f"{run.where}, {width} bit, {run.size:.3g} MB", bars=False)
                for run in runs
                if run.row == width
            ),
            line=False,
        )
        for style, width in enumerate(widths)
    )
    return Chart(
        title=title_of(group),
        alt=f"{metric.label} against model size in MB; the table has the numbers of the Pareto front",
        x_label="size of the model, MB",
        y_label=_in_unit(metric),
        series=series,
        front=tuple((run.size, run.measured.value) for run in front_of(group)),
    )


def _mark(x: float, measured: Measured, name: str, bars: bool = True) -> Mark:
    low, high = (measured.interval if bars else None) or (None, None)
    return Mark(x, measured.value, f"{name}: {measured.with_unit}", low, high)


def _where(point: Point, section: Section, several: bool) -> str:
    column = section.column_of[point.key]
    return f"{column}, {section.setting}" if several and section.setting else column


def _in_unit(metric: Metric) -> str:
    return f"{metric.label}, {metric.unit}" if metric.unit else metric.label
