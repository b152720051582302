"""Rounding the weights of a layer so that its output, and not each weight, is as near as can be.

With H = sum of x x^T over the rows x that the layer reads, codes q with scale s cost (w - s q)^T H (w - s q). Codes are
found in three steps, for all output channels at once:

    scale        the one with the least squared error of the weights, and several around it
    GPTQ         with each: round one weight after another, the one with the largest H_kk first, and move those not yet
                 rounded so that they make up for the error; the scale with the least cost is kept, or the nearest
                 codes where they cost less
    descent      in turns, the best scale for the codes, s = q H w / q H q, and each code the best while all others
                 stay

Sources: GPTQ, Frantar et al. 2022, arXiv:2210.17323; coordinate descent, COMQ, Zhang et al. 2024, arXiv:2403.07134.
Leaves out: grids with a zero-point, which weights have none of here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

_FACTORS = (0.7, 0.775, 0.85, 0.925, 1.0, 1.075, 1.15, 1.225, 1.3)  # of the scale with the least squared error
_SHRUNK = 48  # candidates for that scale, from the one that clips nothing downwards
_BLOCK = 64  # columns whose effect on all others is added at once
_SMALLEST = 1e-30


@final
@dataclass(frozen=True)
class Levels:
    """The codes of a weight.

    Attributes:
        qmin, qmax: lowest and highest code; that of 0.0 is 0.
        per_channel: whether each output channel has its own scale.
    """

    qmin: int
    qmax: int
    per_channel: bool


@torch.no_grad()
def round_weights(w: Tensor, h: Tensor, levels: Levels, sweeps: int) -> tuple[Tensor, Tensor]:
    """Codes and scales with a small cost.

    Args:
        w: float64 (groups, channels, k).
        h: float64 (groups, k, k), positive definite.
        levels: the codes.
        sweeps: of coordinate descent.

    Returns:
        codes, float64, whole numbers shaped like w; scales, float64 (groups, channels).
    """
    base = least_squared_error_scale(w, levels)
    scales = torch.stack([base, *(base * factor for factor in _FACTORS)])  # (candidates, groups, channels)
    together = scales[1:].transpose(0, 1).flatten(1)  # (groups, factors * channels)
    rounded, costs = gptq(w.repeat(1, len(_FACTORS), 1), h, together, levels)
    rounded = rounded.unflatten(1, (len(_FACTORS), -1)).transpose(0, 1)
    costs = costs.unflatten(1, (len(_FACTORS), -1)).transpose(0, 1)
    unmoved = nearest(w, base, levels)
    candidates = torch.cat([unmoved[None], rounded])  # (candidates, groups, channels, k)
    costs = torch.cat([cost(w, h, unmoved, base)[None], costs])
    chosen = _cheapest(costs, levels)
    scale = scales.gather(0, chosen[None])[0]
    q = candidates.gather(0, chosen[None, ..., None].expand(1, *w.shape))[0]
    for _ in range(sweeps):
        scale = _refitted(w, h, q, scale, levels)
        q = descend(w, h, q, scale, levels)
    return q, scale


def _cheapest(costs: Tensor, levels: Levels) -> Tensor:
    """Which candidate costs least, of each channel or of all together: (groups, channels)."""
    if levels.per_channel:
        return costs.argmin(dim=0)
    return costs.sum(dim=(1, 2)).argmin().expand(costs.shape[1:])


def cost(w: Tensor, h: Tensor, q: Tensor, scale: Tensor) -> Tensor:
    """(w - s q)^T H (w - s q), shaped like scale."""
    error = w - q * scale[..., None]
    return ((error @ h) * error).sum(dim=-1)


def least_squared_error_scale(w: Tensor, levels: Levels) -> Tensor:
    """The scale with the least sum of (w - s q)^2 among those that clip some of a channel, (groups, channels)."""
    widest = scale_without_clipping(w, levels)
    best, least = widest, torch.full_like(widest, torch.inf)
    for step in range(1, _SHRUNK + 1):
        scale = widest * (step / _SHRUNK)
        error = (w - nearest(w, scale, levels) * scale[..., None]).square().sum(dim=2)
        error = error if levels.per_channel else error.sum().expand(error.shape)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best


def scale_without_clipping(w: Tensor, levels: Levels) -> Tensor:
    """The smallest scale whose grid reaches every weight of a channel, or of all, (groups, channels); above 0."""
    scale = torch.maximum(w.amax(dim=2) / levels.qmax, w.amin(dim=2) / levels.qmin)
    if not levels.per_channel:
        scale = scale.amax().expand(scale.shape)
    return scale.clamp(min=_SMALLEST)


def nearest(w: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """The nearest codes, each weight for itself."""
    return (w / scale[..., None]).round().clamp(levels.qmin, levels.qmax)


def gptq(w: Tensor, h: Tensor, scale: Tensor, levels: Levels) -> tuple[Tensor, Tensor]:
    """Codes, each rounded once, in an order of falling H_kk, while the others make up for its error.

    Args:
        w: (groups, rows, k).
        h: (groups, k, k).
        scale: (groups, rows).

    Returns:
        codes, shaped like w; their costs, shaped like scale: with H^-1 = U^T U, the sum of (error of a weight when it
        is rounded / U_kk)^2.
    """
    order = h.diagonal(dim1=1, dim2=2).argsort(descending=True)  # (groups, k)
    u = _factor_of_inverse(h.gather(1, order[:, :, None].expand(h.shape)).gather(2, order[:, None, :].expand(h.shape)))
    w = w.transpose(1, 2)  # (groups, k, rows), as below: what is rounded at once lies side by side
    places = order[:, :, None].expand(w.shape)
    w, codes, costs = w.gather(1, places), w.new_empty(w.shape), torch.zeros_like(scale)
    for start in range(0, w.shape[1], _BLOCK):
        stop = min(start + _BLOCK, w.shape[1])
        block, errors = w[:, start:stop], w.new_empty(w[:, start:stop].shape)
        for i in range(stop - start):
            row = u[:, start + i, start + i : stop]  # (groups, weights from here)
            codes[:, start + i] = (block[:, i] / scale).round_().clamp_(levels.qmin, levels.qmax)
            errors[:, i] = (block[:, i] - codes[:, start + i] * scale) / row[:, :1]
            block[:, i:].baddbmm_(row[:, :, None], errors[:, None, i], alpha=-1)
        w[:, stop:].baddbmm_(u[:, start:stop, stop:].transpose(1, 2), errors, alpha=-1)
        costs += errors.square().sum(dim=1)
    return torch.empty_like(codes).scatter_(1, places, codes).transpose(1, 2), costs


def _factor_of_inverse(h: Tensor) -> Tensor:
    """U, upper triangular, of H^-1 = U^T U."""
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(h))
    u: Tensor = torch.linalg.cholesky(inverse, upper=True)
    return u


def descend(w: Tensor, h: Tensor, q: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """One sweep over the codes: each becomes the best while all others stay as they are.

    Args:
        w, q: (groups, channels, k).
        h: (groups, k, k).
        scale: (groups, channels).
    """
    gradient = h @ (w - q * scale[..., None]).transpose(1, 2)  # (groups, k, channels), as below
    codes = q.transpose(1, 2).clone(memory_format=torch.contiguous_format)
    steps = 1 / h.diagonal(dim1=1, dim2=2)
    for start in range(0, codes.shape[1], _BLOCK):
        stop = min(start + _BLOCK, codes.shape[1])
        inner, own = gradient[:, start:stop].clone(), h[:, start:stop, start:stop]
        before = codes[:, start:stop].clone()
        for i in range(stop - start):
            old = before[:, i]
            new = (old + inner[:, i] * steps[:, start + i, None] / scale).round_().clamp_(levels.qmin, levels.qmax)
            inner.baddbmm_(own[:, :, i, None], ((new - old) * scale)[:, None], alpha=-1)
            codes[:, start + i] = new
        gradient.baddbmm_(h[:, :, start:stop], (codes[:, start:stop] - before) * scale[:, None], alpha=-1)
    return codes.transpose(1, 2)


def _refitted(w: Tensor, h: Tensor, q: Tensor, scale: Tensor, levels: Levels) -> Tensor:
    """The best scale for the codes; the old one where they are all 0, or where it would not be above 0."""
    weighted = q @ h
    along, size = (weighted * w).sum(dim=-1), (weighted * q).sum(dim=-1)
    if not levels.per_channel:
        along, size = (total.sum().expand(total.shape) for total in (along, size))
    return torch.where((size > 0) & (along > 0), along / size.clamp(min=_SMALLEST), scale)
