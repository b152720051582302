"""All the arithmetic of affine quantization, as pure functions.

Range first, grid second: an observer answers with a real range, `qparams_from_range` lays a grid over it, and the
other functions use that grid. Rounding is half-to-even (torch.round), here and nowhere else:

    q = clamp(round(r / scale) + zero_point, qmin, qmax)        r = scale * (q - zero_point)

Source: Jacob et al. 2018, arXiv:1712.05877, section 2.1.
"""

from __future__ import annotations

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.errors import InputError

# 1 / scale has to stay finite in float32, so a scale is never below the smallest normal number.
_SMALLEST_SCALE = torch.finfo(torch.float32).tiny


def qparams_from_range(lo: Tensor, hi: Tensor, spec: QuantSpec) -> QParams:
    """Lay the integer grid of `spec` over an observed real range.

    The range is widened to hold 0, and mirrored about 0 if the grid is symmetric. A range without width (a tensor of
    zeros) gets scale 1. The zero-point is rounded to a code, so the grid may be shifted against the range by at
    most half a step.

    Args:
        lo: smallest value to represent, real units; shape () or (channels,).
        hi: largest value to represent, same shape, hi >= lo.
        spec: the grid.

    Returns:
        scale, real units per code, > 0, shaped like lo; zero_point, int32 in [qmin, qmax].

    Raises:
        InputError: shapes differ, a value is not finite, lo > hi, or hi - lo overflows float32.

    Source: Jacob et al. 2018, section 2.1; the same float32 operations as torch.ao's `_calculate_qparams`.
    """
    scale, zero_point = grid_of_range(lo.to(torch.float32), hi.to(torch.float32), spec)
    return QParams(scale, zero_point.to(torch.int32), spec)


def grid_of_range(lo: Tensor, hi: Tensor, spec: QuantSpec) -> tuple[Tensor, Tensor]:
    """`qparams_from_range` for ranges of any shape and float dtype; a search asks it for many candidates at once.

    Returns:
        scale and zero_point (whole numbers), both shaped and typed like lo.

    Raises:
        InputError: as `qparams_from_range`.
    """
    _check_range(lo, hi)
    lo, hi = lo.clamp(max=0.0), hi.clamp(min=0.0)
    if spec.symmetric:
        hi = torch.maximum(-lo, hi)
        lo = -hi
    width = hi - lo
    if not bool(width.isfinite().all()):
        raise InputError(f"range: hi - lo overflows {lo.dtype}, lo={lo.tolist()}, hi={hi.tolist()}")
    scale = _scale_of_width(width, spec.steps)
    if spec.symmetric:
        return scale, torch.full_like(scale, 0 if spec.signed else (spec.qmin + spec.qmax + 1) // 2)
    return scale, spec.qmin - torch.round(lo / scale)  # lo / scale lies between -steps and 0


def _check_range(lo: Tensor, hi: Tensor) -> None:
    if lo.shape != hi.shape:
        raise InputError(f"range: lo and hi must have one shape, got {tuple(lo.shape)} and {tuple(hi.shape)}")
    bad = ~(lo.isfinite() & hi.isfinite()) | (lo > hi)
    if bool(bad.any()):
        raise InputError(f"range: must be finite with lo <= hi, got lo={lo[bad].tolist()}, hi={hi[bad].tolist()}")


def _scale_of_width(width: Tensor, steps: int) -> Tensor:
    """Real units per code; 1 where there is no width, and never so small that 1 / scale overflows."""
    scale = (width / steps).clamp(min=_SMALLEST_SCALE)
    return torch.where(width == 0, torch.ones_like(scale), scale)


def along_channels(values: Tensor, x: Tensor, channel_axis: int | None) -> Tensor:
    """View per-channel `values` so that they broadcast over `x`; () stays ()."""
    if channel_axis is None:
        return values
    shape = [1] * x.dim()
    shape[channel_axis] = -1
    return values.reshape(shape)


def quantize(x: Tensor, qparams: QParams) -> Tensor:
    """Put real values on the grid.

    Args:
        x: real values, float, any shape; the channel axis of a per-channel grid must have len(scale) entries.
        qparams: the grid.

    Returns:
        Codes, int32, shaped like x. Values outside the grid saturate.

    Raises:
        InputError: x holds NaN, which no code can stand for. (Infinities saturate.)
    """
    return _codes(x, qparams).to(torch.int32)


def _codes(x: Tensor, qparams: QParams) -> Tensor:
    """As `quantize`, whole numbers in the type of x."""
    if bool(x.isnan().any()):
        raise InputError(f"quantize: x holds NaN ({int(x.isnan().sum())} of {x.numel()} values)")
    spec = qparams.spec
    scale = along_channels(qparams.scale, x, spec.channel_axis)
    zero_point = along_channels(qparams.zero_point, x, spec.channel_axis)
    return (x / scale).round_().add_(zero_point).clamp_(spec.qmin, spec.qmax)


def dequantize(q: Tensor, qparams: QParams) -> Tensor:
    """Real values of codes: float32, shaped like q."""
    axis = qparams.spec.channel_axis
    return (q - along_channels(qparams.zero_point, q, axis)) * along_channels(qparams.scale, q, axis)


def fake_quantize(x: Tensor, qparams: QParams) -> Tensor:
    """The nearest values of the grid, in real units: dequantize(quantize(x)), bit for bit, in half the time."""
    axis = qparams.spec.channel_axis
    codes = _codes(x, qparams).to(torch.float32)
    return codes.sub_(along_channels(qparams.zero_point, x, axis)).mul_(along_channels(qparams.scale, x, axis))


def clipped_fraction(x: Tensor, qparams: QParams) -> Tensor:
    """Share of values that lie more than half a step outside the grid, so that saturation and not rounding moves them.

    Returns:
        Fractions in [0, 1], float64; shape () or (channels,).
    """
    axis = qparams.spec.channel_axis
    half = along_channels(qparams.scale / 2, x, axis)
    outside = (x < along_channels(qparams.lo, x, axis) - half) | (x > along_channels(qparams.hi, x, axis) + half)
    counted = outside.sum() if axis is None else _channel_rows(outside, axis).sum(dim=1)
    return counted.to(torch.float64) / (outside.numel() // counted.numel())


def sqnr_db(signal: Tensor | float, noise: Tensor | float) -> Tensor:
    """Signal-to-quantization-noise ratio, 10 log10(signal / noise).

    Args:
        signal: sum of squares, or power, >= 0; any shape.
        noise: that of the error, in the same unit, >= 0.

    Returns:
        dB, float64; +inf without noise, -inf without signal, NaN without either.
    """
    powers = (torch.as_tensor(power, dtype=torch.float64) for power in (signal, noise))
    decibels: Tensor = 10 * torch.log10(torch.div(*powers))
    return decibels


def sqnr_db_of_values(x: Tensor, qparams: QParams, made: Tensor | None = None) -> Tensor:
    """`sqnr_db` of x against x - made.

    Args:
        made: what lies on the grid in the place of x, shaped like it; fake_quantize(x) if None.

    Returns:
        dB, float64, shape () or (channels,).
    """
    axis = qparams.spec.channel_axis
    signal, noise = (
        _channel_norm(values, axis) for values in (x, x - (fake_quantize(x, qparams) if made is None else made))
    )
    return sqnr_db(signal**2, noise**2)


def _channel_norm(values: Tensor, channel_axis: int | None) -> Tensor:
    """Root of the sum of squares, float64: a fourth of the time of squaring a copy in float64."""
    rows = values if channel_axis is None else _channel_rows(values, channel_axis)
    norm: Tensor = torch.linalg.vector_norm(rows, dim=None if channel_axis is None else 1, dtype=torch.float64)
    return norm


def _channel_rows(values: Tensor, channel_axis: int) -> Tensor:
    return values.transpose(0, channel_axis).flatten(1)
