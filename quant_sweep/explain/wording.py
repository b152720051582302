"""How numbers are written on the page."""

from __future__ import annotations

import math

from quant_sweep.explain.steps import Extent

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
