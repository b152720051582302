"""The pictures of one layer, each small enough to be read on a phone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.explain.layer import Channels
from quant_sweep.explain.tensor_study import TensorStudy
from quant_sweep.report.figures import COLOURS, GREY, MARKERS

_SIZE = (4.6, 3.5)  # inches; at 10 points the letters stay legible at 350 pixels
_LEGEND_ROW = 0.24  # inches
_FEW_CODES = 32  # with more, a line at every code would cover the picture
_FINEST_BAR = 1 / 4  # of a step


def histogram_with_grid(in_steps: Sequence[float], spec: QuantSpec) -> Figure:
    """Weights in units of their channel's scale, where the codes are the whole numbers."""
    figure, axes = _empty("weight / its scale", "weights")
    lowest, highest = min(*in_steps, spec.qmin) - 0.5, max(*in_steps, spec.qmax) + 0.5
    wide = max(1, round((highest - lowest) * _FINEST_BAR / 20)) if spec.steps > _FEW_CODES else _FINEST_BAR
    edges = np.arange(np.floor(lowest), np.ceil(highest) + wide, wide)
    axes.hist(in_steps, bins=list(edges), color=COLOURS[0], label="weights")
    codes = range(spec.qmin, spec.qmax + 1) if spec.steps <= _FEW_CODES else (spec.qmin, 0, spec.qmax)
    for index, code in enumerate(codes):
        label = None if index else ("codes" if spec.steps <= _FEW_CODES else f"codes {spec.qmin}, 0, {spec.qmax}")
        axes.axvline(code, color=COLOURS[1], linewidth=0.9, linestyle=(0, (3, 2)), label=label)
    return _with_legend(figure, axes, 2)


def channel_ranges(channels: Channels) -> Figure:
    """Range of each channel as a bar, the ends of its grid as ticks."""
    figure, axes = _empty("output channel", "weight")
    index = np.arange(len(channels.lo))
    width = float(np.clip(120 / len(index), 0.6, 5))
    axes.vlines(index, channels.lo, channels.hi, color=COLOURS[0], linewidth=width, label="smallest to largest weight")
    limit = np.broadcast_to(np.asarray(channels.limit), index.shape)
    ends: dict[str, Any] = {"color": COLOURS[1], "linewidth": 1.2}
    axes.hlines(limit, index - 0.45, index + 0.45, label="ends of the grid", **ends)
    axes.hlines(-limit, index - 0.45, index + 0.45, **ends)
    axes.axhline(0, color=GREY, linewidth=0.8)
    return _with_legend(figure, axes, 2)


def histogram_with_ranges(study: TensorStudy) -> Figure:
    """How often values occur, on a logarithmic scale, and where each observer clips."""
    figure, axes = _empty("value", "how many")
    counts, edges = np.asarray(study.counts), np.asarray(study.edges)
    axes.stairs(counts, edges, fill=True, color="#c9d6df")
    axes.set_yscale("log")
    axes.set_ylim(0.5, 4 * counts.max())
    for number, (name, choice) in enumerate(study.choices.items()):
        style: dict[str, Any] = _line_style(number, name == study.used)
        style["linestyle"] = (number * 2, (4, 8)) if name != study.used else "-"  # side by side where they coincide
        for end, label in ((choice.lo, None), (choice.hi, _label(study, name))):
            if end != 0 or label:
                axes.axvline(end, label=label, **style)
    return _with_legend(figure, axes, len(study.choices))


def trade_off_curve(study: TensorStudy) -> Figure:
    """Rounding, clipping and their sum as the range narrows; and what each observer chose."""
    figure, axes = _empty("range kept, %", "error / power of the signal")
    curve = study.trade_off
    kept = 100 * np.asarray(curve.kept)
    rounding, clipping = np.asarray(curve.rounding), np.asarray(curve.clipping)
    axes.plot(kept, _positive(rounding), color=GREY, linestyle="--", linewidth=1.3, label="rounding")
    axes.plot(kept, _positive(clipping), color=GREY, linestyle=":", linewidth=1.6, label="clipping")
    axes.plot(kept, _positive(rounding + clipping), color="black", linewidth=1.6, label="both")
    for number, (name, choice) in enumerate(study.choices.items()):
        style = _marker_style(number, 12 - 1.3 * number)  # all stay visible where they coincide
        axes.plot([100 * choice.kept], [choice.error], linestyle="none", label=_label(study, name), **style)
    axes.set_yscale("log")
    axes.yaxis.set_minor_locator(NullLocator())
    total = (rounding + clipping)[np.isfinite(rounding + clipping) & (rounding + clipping > 0)]
    if len(total):  # clipping falls to nothing: it is cut off where it does not matter
        axes.set_ylim(total.min() / 30, 2 * total.max())
    axes.set_xlim(max(100.0, 100 * max(choice.kept for choice in study.choices.values())) + 3, 0)
    return _with_legend(figure, axes, 3 + len(study.choices))


def sqnr_by_width(study: TensorStudy) -> Figure:
    """What each observer reaches at each width."""
    by_observer = {_label(study, name): choice.sqnr_db for name, choice in study.choices.items()}
    return _decibels_by_width(by_observer)


def per_tensor_and_channel(channels: Channels) -> Figure:
    """What one scale per channel is worth."""
    return _decibels_by_width({"per tensor": channels.per_tensor, "per channel": channels.per_channel})


def _decibels_by_width(lines: Mapping[str, Mapping[int, float]]) -> Figure:
    figure, axes = _empty("bits", "SQNR, dB")
    for number, (label, by_width) in enumerate(lines.items()):
        widths = sorted(by_width)
        heights = [by_width[bits] if np.isfinite(by_width[bits]) else np.nan for bits in widths]
        axes.plot(widths, heights, label=label, linewidth=1.4, **_marker_style(number, 6))
    axes.set_xticks(sorted({bits for by_width in lines.values() for bits in by_width}))
    return _with_legend(figure, axes, len(lines))


def _empty(x: str, y: str) -> tuple[Figure, Axes]:
    figure = Figure(figsize=_SIZE, layout="constrained")
    axes = figure.add_subplot()
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _with_legend(figure: Figure, axes: Axes, entries: int) -> Figure:
    """The legend below the picture, which grows by as much."""
    columns = min(entries, 3)
    figure.set_size_inches(_SIZE[0], _SIZE[1] + _LEGEND_ROW * -(-entries // columns))
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False, fontsize=9, columnspacing=1.2
    )
    return figure


def _label(study: TensorStudy, name: str) -> str:
    return f"{name} (used)" if name == study.used else name


def _line_style(number: int, used: bool) -> dict[str, Any]:
    return {"color": COLOURS[number % len(COLOURS)], "linewidth": 1.8 if used else 1.4}


def _marker_style(number: int, size: float) -> dict[str, Any]:
    colour, marker = COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]
    return {"color": colour, "marker": marker, "markersize": size, "markeredgecolor": "white", "markeredgewidth": 0.7}


def _positive(values: Any) -> Any:
    """Zero has no place on a logarithmic scale."""
    return np.where(values > 0, values, np.nan)
