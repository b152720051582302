"""The tensors of a layer in words, tables and pictures: what observers choose for them, and what it costs."""

from __future__ import annotations

import math

from quant_sweep.arithmetic.affine import sqnr_db
from quant_sweep.explain.layer import Explanation
from quant_sweep.explain.plots import (
    channel_ranges,
    histogram_with_grid,
    histogram_with_ranges,
    per_tensor_and_channel,
    sqnr_by_width,
    trade_off_curve,
)
from quant_sweep.explain.steps import Extent
from quant_sweep.explain.tensor_study import TensorStudy
from quant_sweep.explain.wording import decibels, number, percent, span, whole
from quant_sweep.report.document import Block, Heading, Paragraph, Picture, Table


def weight_section(explanation: Explanation) -> list[Block]:
    """The weight: its grid, the trade-off, per tensor against per channel."""
    weight, channels = explanation.weight, explanation.channels
    many = len(channels.scale) > 1
    grids = f"{len(channels.scale)} grids, one per output channel" if many else "one grid for the whole tensor"
    widest, narrowest = max(_spread(explanation)), min(_spread(explanation))
    share = percent(narrowest / widest) if widest else "none"
    return [
        Heading(f"The weights: {weight.name}"),
        Paragraph(
            f"{whole(weight.count)} values from {number(weight.lo)} to {number(weight.hi)}, on {grids} of "
            f"{_width(weight)}. The widest channel reaches {number(widest)}, the narrowest "
            f"{number(narrowest)}: with one scale for all, the narrowest has {share} of the levels."
        ),
        Paragraph(_best_range(weight)),
        _choices(weight),
        Paragraph("One scale for the tensor against one per channel, SQNR in dB of the observer that is used:"),
        _by_width(explanation),
        Picture(
            f"Histogram of the weights in steps of their grid, {weight.spec.qmin} to {weight.spec.qmax}",
            lambda: histogram_with_grid(explanation.in_steps, weight.spec),
        ),
        Picture("Range of every channel beside the ends of its grid", lambda: channel_ranges(channels)),
        _curve(weight),
        Picture("SQNR against bits, per tensor and per channel", lambda: per_tensor_and_channel(channels)),
    ]


def activation_section(part: str, study: TensorStudy) -> list[Block]:
    """An activation: its histogram, the trade-off, the error at every width."""
    return [
        Heading(f"The {part}: {study.name}"),
        Paragraph(
            f"{whole(study.count)} values seen in calibration, from {number(study.lo)} to {number(study.hi)}; "
            f"the grid has {_width(study)}."
        ),
        Paragraph(_best_range(study)),
        _choices(study),
        Picture(
            f"Histogram of {study.name} on a logarithmic scale with the range that each observer chooses",
            lambda: histogram_with_ranges(study),
        ),
        _curve(study),
        Picture(f"SQNR of {study.name} against bits for each observer", lambda: sqnr_by_width(study)),
    ]


def _by_width(explanation: Explanation) -> Table:
    channels, used = explanation.channels, explanation.weight.spec.bits
    widths = sorted(channels.per_tensor, reverse=True)
    rows = tuple(
        (f"{bits} bits", decibels(channels.per_tensor[bits]), decibels(channels.per_channel[bits])) for bits in widths
    )
    strong = frozenset((widths.index(used), column) for column in range(3))
    return Table(("", "per tensor", "per channel"), rows, strong)


def _curve(study: TensorStudy) -> Picture:
    alt = f"Rounding, clipping and total error of {study.name} as its range narrows, observers marked"
    return Picture(alt, lambda: trade_off_curve(study))


def _best_range(study: TensorStudy) -> str:
    curve = study.trade_off
    total = [r + c for r, c in zip(curve.rounding, curve.clipping, strict=True)]
    if not all(math.isfinite(error) for error in total) or not any(total):
        return "There is nothing to trade: the tensor has no error, or no signal, on this grid."
    best = total.index(min(total))
    gain = sqnr_db(total[0], total[best]).item()
    found = (
        f"the least is {percent(total[best])} where {percent(curve.kept[best])} of it is kept, "
        f"{percent(curve.rounding[best])} rounding and {percent(curve.clipping[best])} clipping: "
        f"{decibels(gain)} dB better"
        if best
        else "nothing is gained by narrowing it"
    )
    return (
        "A narrower range makes every step finer, so rounding costs less, and leaves more values outside, which are "
        f"clipped. On {study.spec.bits} bits the whole range costs {percent(total[0])} of the signal's power; {found}. "
        "An observer that moves one end alone, or every channel differently, lies beside the curve."
    )


def _choices(study: TensorStudy) -> Table:
    rows = tuple(
        (
            _label(name, study),
            span(Extent(choice.lo, choice.hi)),
            percent(choice.kept),
            percent(choice.clipped),
            percent(choice.rounding),
            percent(choice.clipping),
            decibels(choice.sqnr_db[study.spec.bits]),
        )
        for name, choice in study.choices.items()
    )
    headers = ("observer", "grid from … to", "of the full range", "saturated", "rounding", "clipping", "SQNR, dB")
    used = list(study.choices).index(study.used)
    return Table(headers, rows, frozenset((used, column) for column in range(len(headers))))


def _label(name: str, study: TensorStudy) -> str:
    return f"{name} (used)" if name == study.used else name


def _width(study: TensorStudy) -> str:
    spec = study.spec
    return f"{spec.steps + 1} levels, {spec.qmin} to {spec.qmax}".replace("-", "−")


def _spread(explanation: Explanation) -> list[float]:
    return [max(abs(lo), abs(hi)) for lo, hi in zip(explanation.channels.lo, explanation.channels.hi, strict=True)]
