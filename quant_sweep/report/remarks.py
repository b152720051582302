"""What a reader of the numbers must know about single runs: what stayed in float, and which engine was replaced."""

from __future__ import annotations

from collections.abc import Sequence

from quant_sweep.report.points import Bits, Point


def remarks(points: Sequence[Point]) -> list[str]:
    """One line for each distinct remark, with its styles; [] if there is nothing to say."""
    finished = [point for point in points if point.status == "finished"]
    return [
        *_collapsed(finished, len(points)),
        *_grouped("float_weights", "these weights stay in float: ", finished),
        *_grouped("float_tensors", "integer kernels leave these tensors in float: ", finished),
        *_grouped("recovery_left_out", "a recovery made images that it did not see worse and is left out: ", finished),
        *_grouped("engine_fell_back", "`engine=auto` computed with simulate, for ", finished),
    ]


def _collapsed(finished: Sequence[Point], total: int) -> list[str]:
    """Runs whose numbers say only that the network is broken, or that it was in float already."""
    guessing = [point for point in finished if point.guesses_in_float]
    lines = (
        [f"In {len(guessing)} of {total} runs **the float model only guesses**; see the short result."]
        if guessing
        else []
    )
    for point in finished:
        if point.collapsed and not point.guesses_in_float:
            named = " ".join(point.params.get(name, "") for name in ("model", "observer", "fusion", "engine"))
            lines.append(
                f"**Collapsed** at {Bits.of(point.params)} bits ({' '.join(named.split())}): {point.collapsed}."
            )
    return lines


def _grouped(tag: str, text: str, points: Sequence[Point]) -> list[str]:
    """The runs that share a tag's value, together."""
    by_value: dict[str, int] = {}
    for point in points:
        if tag in point.tags:
            by_value[point.tags[tag]] = by_value.get(point.tags[tag], 0) + 1
    return [f"In {count} of {len(points)} runs {text}{value}." for value, count in sorted(by_value.items())]
