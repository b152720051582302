"""A chart of a document as SVG inside an HTML page: drawn once, coloured by the page's style, read without a script.

The pointer shows the text of each mark; on paper and for a screen reader the table beside the chart has the numbers.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from markupsafe import Markup

from quant_sweep.errors import printable
from quant_sweep.report.document import Chart, Mark, Series

_WIDTH, _HEIGHT = 440, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 46, 10, 10, 42  # margins that hold the labels
_COLOURS = 7  # classes c0 to c6 of the page
_SIZE = 4.2  # of a mark
_TICKS = 5


def svg_chart(chart: Chart) -> Markup:
    """The drawing; its title and legend are left to the page."""
    axes = _Axes(chart)
    parts = [*_grid(chart, axes), *_reference(chart, axes), *_front(chart, axes)]
    for series in chart.series:
        parts += _series(series, axes)
    start = Markup('<svg viewBox="0 0 {} {}" role="img" aria-label="{}">')
    return start.format(_WIDTH, _HEIGHT, printable(chart.alt)) + Markup("").join(parts) + Markup("</svg>")


def legend_mark(style: int) -> Markup:
    """The mark of a series by itself."""
    box = Markup('<svg class="key c{}" viewBox="-6 -6 12 12" aria-hidden="true">{}</svg>')
    return box.format(style % _COLOURS, _shape(0, 0, style))


def ticks(low: float, high: float) -> list[float]:
    """Round numbers inside [low, high], some five."""
    if not high > low:
        return [low]
    raw = (high - low) / _TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [number * step for number in range(first, math.floor(high / step + 1e-9) + 1)]


class _Axes:
    """From values to places."""

    def __init__(self, chart: Chart) -> None:
        marks = [mark for series in chart.series for mark in series.marks if mark]
        ys = [y for mark in marks for y in (mark.y, mark.low, mark.high) if y is not None]
        xs = [mark.x for mark in marks]
        if chart.ticks:
            xs = [chart.ticks[0][0] - 0.5, chart.ticks[-1][0] + 0.5]
        if chart.reference:
            value, interval, _ = chart.reference
            ys += [value, *(interval or ())]
        self.x_low, self.x_high = _wider(xs, 0.0 if chart.ticks else 0.05)
        self.y_low, self.y_high = _wider(ys, 0.04)

    def x(self, value: float) -> str:
        share = (value - self.x_low) / (self.x_high - self.x_low)
        return _number(_LEFT + share * (_WIDTH - _LEFT - _RIGHT))

    def y(self, value: float) -> str:
        share = (value - self.y_low) / (self.y_high - self.y_low)
        return _number(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM))


def _wider(values: Sequence[float], margin: float) -> tuple[float, float]:
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    more = margin * (high - low)
    return (low - more, high + more) if high > low else (low - 0.5, high + 0.5)


def _grid(chart: Chart, axes: _Axes) -> Iterator[Markup]:
    line = Markup('<path class="grid" d="M{} {}H{}"/>')
    label = Markup('<text x="{}" y="{}" text-anchor="{}">{}</text>')
    for value in ticks(axes.y_low, axes.y_high):
        yield line.format(_LEFT, axes.y(value), _WIDTH - _RIGHT)
        yield label.format(_LEFT - 6, _number(float(axes.y(value)) + 4), "end", f"{value:.6g}")
    across = chart.ticks or tuple((value, f"{value:.6g}") for value in ticks(axes.x_low, axes.x_high))
    for value, text in across:
        yield label.format(axes.x(value), _HEIGHT - _BOTTOM + 17, "middle", printable(text))
    yield label.format((_LEFT + _WIDTH - _RIGHT) // 2, _HEIGHT - 6, "middle", printable(chart.x_label))
    turned = Markup('<text transform="translate(11 {}) rotate(-90)" text-anchor="middle">{}</text>')
    yield turned.format((_TOP + _HEIGHT - _BOTTOM) // 2, printable(chart.y_label))


def _reference(chart: Chart, axes: _Axes) -> Iterator[Markup]:
    if chart.reference is None:
        return
    value, interval, text = chart.reference
    if interval:
        band = Markup('<rect class="band" x="{}" y="{}" width="{}" height="{}"/>')
        top, bottom = axes.y(interval[1]), axes.y(interval[0])
        yield band.format(_LEFT, top, _WIDTH - _LEFT - _RIGHT, _number(float(bottom) - float(top)))
    line = Markup('<path class="reference" d="M{} {}H{}"><title>{}</title></path>')
    yield line.format(_LEFT, axes.y(value), _WIDTH - _RIGHT, printable(text))


def _front(chart: Chart, axes: _Axes) -> Iterator[Markup]:
    if len(chart.front) < 2:
        return
    (x, y), *others = chart.front
    steps = "".join(f"H{axes.x(right)}V{axes.y(up)}" for right, up in others)
    yield Markup('<path class="front" d="M{} {}{}"/>').format(axes.x(x), axes.y(y), Markup(steps))


def _series(series: Series, axes: _Axes) -> Iterator[Markup]:
    yield Markup('<g class="c{}">').format(series.style % _COLOURS)
    if series.line:
        yield Markup('<path class="line" d="{}"/>').format(Markup(_path(series.marks, axes)))
    for mark in series.marks:
        if mark:
            shape = _shape(float(axes.x(mark.x)), float(axes.y(mark.y)), series.style)
            yield Markup("<g>{}{}<title>{}</title></g>").format(_bar(mark, axes), shape, printable(mark.text))
    yield Markup("</g>")


def _bar(mark: Mark, axes: _Axes) -> Markup:
    """The interval."""
    if mark.low is None or mark.high is None:
        return Markup("")
    return Markup('<path class="bar" d="M{} {}V{}"/>').format(axes.x(mark.x), axes.y(mark.low), axes.y(mark.high))


def _path(marks: Sequence[Mark | None], axes: _Axes) -> str:
    """Through all neighbours; a gap begins anew."""
    path, joined = "", False
    for mark in marks:
        if mark:
            path += f"{'L' if joined else 'M'}{axes.x(mark.x)} {axes.y(mark.y)}"
        joined = mark is not None
    return path


def _shape(x: float, y: float, style: int) -> Markup:
    """A circle, square, triangle or diamond."""
    a, d = _SIZE, 5.9
    outlines = (
        f"M{_number(x - a)} {_number(y)}a{a} {a} 0 1 0 {2 * a} 0a{a} {a} 0 1 0 -{2 * a} 0",
        f"M{_number(x - a)} {_number(y - a)}h{2 * a}v{2 * a}h-{2 * a}z",
        f"M{_number(x)} {_number(y - 1.3 * a)}l{1.3 * a:.2f} {2.2 * a:.2f}h-{2.6 * a:.2f}z",
        f"M{_number(x)} {_number(y - d)}l{d} {d}l-{d} {d}l-{d} -{d}z",
    )
    return Markup('<path d="{}"/>').format(Markup(outlines[style % len(outlines)]))


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")
