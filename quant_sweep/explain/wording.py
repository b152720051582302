"""How numbers are written on the page."""

from __future__ import annotations

import math

from quant_sweep.explain.steps import Extent
from quant_sweep.graph.operations import Convolution, Operation

_NOISE = 1e-12


def number(x: float, digits: int = 4) -> str:
    """A real number, as many digits as mean something."""
    if math.isnan(x):
        return "–"
    if math.isinf(x):
        return "∞" if x > 0 else "−∞"
    return f"{x:.{digits}g}".replace("-", "−")


def whole(x: float) -> str:
    """A whole number, thousands apart."""
    return f"{int(x):,}".replace(",", "\N{NARROW NO-BREAK SPACE}").replace("-", "−")


def span(extent: Extent | None) -> str:
    """From … to, of real numbers."""
    if extent is None:
        return ""
    if extent.lowest == extent.highest:
        return number(extent.lowest)
    return f"{number(extent.lowest)} … {number(extent.highest)}"


def whole_span(extent: Extent | None) -> str:
    """From … to, of whole numbers."""
    return "" if extent is None else f"{whole(extent.lowest)} … {whole(extent.highest)}"


def percent(share: float) -> str:
    """A share, small ones too; what is below the rounding of float64 sums is none."""
    if math.isnan(share):
        return "–"
    return f"{number(100 * share if abs(share) > _NOISE else 0.0, 3)}\N{NO-BREAK SPACE}%"


def decibels(x: float) -> str:
    """A ratio in dB."""
    return f"{x:.1f}".replace("-", "−") if math.isfinite(x) else number(x)


def times(shape: tuple[int, ...]) -> str:
    """A shape."""
    return " × ".join(str(size) for size in shape) or "1"


def layer_kind(operation: Operation, weight: tuple[int, ...]) -> str:
    """What layer it is, and the shape of its weight; of a convolution, what is not the default."""
    if not isinstance(operation, Convolution):
        return f"linear layer, weight {times(weight)}"
    axes, name = len(operation.stride), "transposed convolution" if operation.transposed else "convolution"
    parts = {
        "stride": None if set(operation.stride) == {1} else operation.stride,
        "padding": operation.padding if any(map(any, operation.padding)) else None,
        "dilation": None if set(operation.dilation) == {1} else operation.dilation,
        "groups": None if operation.groups == 1 else operation.groups,
        "output padding": operation.output_padding if any(operation.output_padding) else None,
    }
    shown = [f"{part} {_sizes(value)}" for part, value in parts.items() if value is not None]
    return ", ".join([f"{axes}-d {name}", f"weight {times(weight)}", *shown])


def _sizes(value: object) -> str:
    """One size for all axes once; (before, after) with a plus."""
    if not isinstance(value, tuple):
        return str(value)
    if isinstance(value[0], tuple):
        value = tuple(size[0] if size[0] == size[1] else f"{size[0]}+{size[1]}" for size in value)
    return str(value[0]) if len(set(value)) == 1 else " × ".join(map(str, value))
