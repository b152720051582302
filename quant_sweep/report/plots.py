"""Two pictures of one section: what was measured against bits, and a heat map of what quantization costs.

Each observer keeps its colour and marker in all sections of a report.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import Normalize, PowerNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from quant_sweep.report.figures import COLOURS, GREY, MARKERS, plain_text
from quant_sweep.report.measured import Metric
from quant_sweep.report.points import Bits
from quant_sweep.report.sections import Cell, Section

_LINE: dict[str, Any] = {"linewidth": 1.6, "markersize": 6, "markeredgecolor": "white", "markeredgewidth": 0.7}
_SPREAD = 0.045  # of the distance between two widths: keeps interval bars apart


def metric_figure(section: Section, observers: Sequence[str]) -> Figure:
    """One line per observer with 95 % bars, fewer bits to the right; the float model is a dashed line in its band.

    Args:
        section: what to draw.
        observers: all observers of the report; the position of one chooses its colour.
    """
    figure = Figure(figsize=(max(6.4, 3.4 + 1.1 * len(section.rows)), 4.4), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    metric, unit = section.metric, f" {section.metric.unit}" if section.metric.unit else ""
    if section.original:
        if section.original.interval:
            axes.axhspan(*section.original.interval, color=GREY, alpha=0.15, linewidth=0)
        label = f"float {metric.shown(section.original.value)}{plain_text(unit)}"
        axes.axhline(section.original.value, color=GREY, linestyle="--", linewidth=1.2, label=label)
    for index, column in enumerate(section.columns):
        shift = (index - (len(section.columns) - 1) / 2) * _SPREAD
        _line(axes, section, column, shift, observers.index(column))
    axes.set_xticks(range(len(section.rows)), [_tick(row) for row in section.rows])
    axes.set_xlim(-0.5, len(section.rows) - 0.5)
    axes.set_ylabel(_axis_label(metric))
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    figure.suptitle(_heading(section), fontsize=11)
    figure.legend(loc="outside right center", frameon=False, fontsize=9)
    return figure


def heat_map(section: Section) -> Figure:
    """Bits x observer: colour is what was lost, numbers are the value and its change; hatched: no result."""
    size = (max(4.8, 1.2 + 1.15 * len(section.columns)), 1.2 + 0.6 * len(section.rows))
    figure = Figure(figsize=size, dpi=150, layout="constrained")
    axes = figure.add_subplot()
    losses = [_loss(section, cell) for cell in section.cells.values() if cell.measured]
    # The square root keeps a loss of half a point visible beside one of 80.
    least = 5.0 if section.metric.unit in ("%", "dB") else max(max(losses, default=0.0), 1e-30)
    norm = PowerNorm(0.5, 0.0, max([least, *losses]), clip=True)
    for y, row in enumerate(section.rows):
        for x, column in enumerate(section.columns):
            _draw_cell(axes, x, y, section, section.cells[row, column], norm, column in section.best(row))
    axes.set_xlim(-0.5, len(section.columns) - 0.5)
    axes.set_ylim(len(section.rows) - 0.5, -0.5)
    axes.set_xticks(range(len(section.columns)), [plain_text(name).replace(" ", "\n") for name in section.columns])
    axes.set_yticks(range(len(section.rows)), [_tick(row) for row in section.rows])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    difference = "" if _reference(section) is None else f", below it the difference to {_reference_name(section)}"
    figure.suptitle(f"{_heading(section)}\n{_in_unit(section.metric)}{difference}", fontsize=10)
    return figure


def _line(axes: Axes, section: Section, column: str, shift: float, style: int) -> None:
    """Draw what was measured; where a cell has nothing the line has a gap."""
    colour, marker = COLOURS[style % len(COLOURS)], MARKERS[style % len(MARKERS)]
    places = [(x + shift, section.cells[row, column].measured) for x, row in enumerate(section.rows)]
    line = [measured.value if measured else float("nan") for _, measured in places]
    label = plain_text(column if any(measured for _, measured in places) else f"{column} (no result)")
    axes.plot([x for x, _ in places], line, color=colour, marker=marker, label=label, **_LINE)
    bars = [(x, measured.interval) for x, measured in places if measured and measured.interval]
    axes.vlines(
        [x for x, _ in bars],
        [low for _, (low, _) in bars],
        [high for _, (_, high) in bars],
        color=colour,
        linewidth=1.6,
    )


def _draw_cell(axes: Axes, x: int, y: int, section: Section, cell: Cell, norm: Normalize, best: bool) -> None:
    corner = (x - 0.48, y - 0.46)
    if cell.measured is None:
        axes.add_patch(
            Rectangle(corner, 0.96, 0.92, facecolor="#eeeeee", edgecolor="#c4c4c4", hatch="///", linewidth=0)
        )
        box = {"facecolor": "#eeeeee", "edgecolor": "none", "pad": 1.5}
        axes.text(x, y, plain_text(cell.status), ha="center", va="center", fontsize=8, color="#333333", bbox=box)
        return
    loss = _loss(section, cell)
    colour = colormaps["YlGnBu"](0.03 + 0.9 * float(norm(loss)))
    dark = 0.299 * colour[0] + 0.587 * colour[1] + 0.114 * colour[2] < 0.5
    ink = "white" if dark else "black"
    axes.add_patch(Rectangle(corner, 0.96, 0.92, facecolor=colour, linewidth=0, in_layout=False))
    metric, reference = section.metric, _reference(section)
    number = metric.shown(cell.measured.value)
    change = "" if reference is None else metric.shown(cell.measured.value - reference, sign=True).replace("-", "−")
    place: dict[str, Any] = {"xy": (x, y), "textcoords": "offset points", "ha": "center", "va": "center"}
    place |= {"color": ink, "in_layout": False}
    axes.annotate(number, xytext=(0, 5), fontsize=10, weight="bold" if best else "normal", **place)
    axes.annotate(change, xytext=(0, -8), fontsize=7.5, **place)


def _reference(section: Section) -> float | None:
    """What values are compared with: float, or 100 % where float is not known."""
    if section.original:
        return section.original.value
    return 100.0 if section.metric.unit == "%" else None


def _reference_name(section: Section) -> str:
    points = " in points" if section.metric.unit == "%" else ""
    return f"{'float' if section.original else '100 %'}{points}"


def _loss(section: Section, cell: Cell) -> float:
    """How much worse than the reference; without one, than the best of the section."""
    metric = section.metric
    if cell.measured is None:
        return 0.0
    reference = _reference(section)
    if reference is None:
        reached = (other.measured.value for other in section.cells.values() if other.measured)
        reference = max(reached, key=metric.goodness)
    return metric.lost(reference, cell.measured.value)


def _axis_label(metric: Metric) -> str:
    return plain_text(f"{metric.label}, {metric.unit}" if metric.unit else metric.label)


def _in_unit(metric: Metric) -> str:
    return plain_text(f"{metric.label} in {metric.unit}" if metric.unit else metric.label)


def _tick(row: Bits) -> str:
    return f"{row} bit" if row.weight == row.activation else str(row)


def _heading(section: Section) -> str:
    name, _, setting = plain_text(section.title).partition(": ")
    return "\n".join([name, *textwrap.wrap(setting, 56, break_on_hyphens=False)])
