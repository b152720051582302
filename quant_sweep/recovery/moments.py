"""Second moments of what a layer reads and should write, and the weights that fit them best.

With rows x, centred, and wanted outputs y: H = sum x x^T / n, C = sum x y^T / n. The weights near to w that make the
error of the output small are

    w* = w + (H + d)^-1 (C - H w),   d = damp * mean(diag H) on the diagonal

where x is what the *quantized* network reads and y what the *float* network makes: w* mends what quantization upstream
did. With x of the float network it would be w itself.

Sources: GPTAQ, Li et al. 2025, arXiv:2504.02692 (asymmetric calibration); Qronos, Zhang et al. 2025, arXiv:2505.11695.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from quant_sweep.recovery.rows import sampled_rows
from quant_sweep.recovery.walk import Layer

_BLOCK = 128  # columns of H at once; it is symmetric, so what lies below its diagonal is not computed


@final
class Moments:
    """Adds up rows in float64; products of a batch are float32, about the mean of the first batch."""

    def __init__(self) -> None:
        self._count = 0

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: x float32 (groups, n, k), y (groups, n, out / groups)."""
        if self._count == 0:
            self._begin(x, y)
        x, y = x - self._about[0], y - self._about[1]
        self._x += x.sum(dim=1)
        self._y += y.sum(dim=1)
        for start in range(0, x.shape[2], _BLOCK):
            columns = slice(start, start + _BLOCK)
            self._xx[:, columns, start:] += x[:, :, columns].transpose(1, 2) @ x[:, :, start:]
        self._xy += x.transpose(1, 2) @ y
        self._count += x.shape[1]

    def _begin(self, x: Tensor, y: Tensor) -> None:
        self._about = x.mean(dim=1, keepdim=True), y.mean(dim=1, keepdim=True)
        groups, k, out = len(x), x.shape[2], y.shape[2]
        self._x, self._y, self._xx, self._xy = (
            x.new_zeros(shape, dtype=torch.float64)
            for shape in ((groups, k), (groups, out), (groups, k, k), (groups, k, out))
        )  # of xx the blocks on the diagonal and above it

    def centred(self) -> tuple[Tensor, Tensor]:
        """H, float64 (groups, k, k), and C, (groups, k, out / groups); at least one row was added."""
        upper = self._xx.triu_()
        h = (upper + upper.triu(1).transpose(1, 2)).div_(self._count)
        x, y, xy = (total / self._count for total in (self._x, self._y, self._xy))
        return h.baddbmm_(x[:, :, None], x[:, None, :], alpha=-1), xy - x[:, :, None] * y[:, None, :]


@torch.no_grad()
def moments_of(layer: Layer, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """H and C of a layer, as `Moments.centred` gives them, of some rows drawn over all its inputs."""
    moments = Moments()
    each = -(-rows // len(layer.inputs))
    for x, y in zip(layer.inputs, layer.targets, strict=True):
        moments.add(*sampled_rows(layer.operation, layer.original, x, y, each, generator))
    return moments.centred()


@torch.no_grad()
def damped(h: Tensor, damp: float) -> Tensor:
    """H + damp * mean(diag H) I; positive definite for every H = sum x x^T, that of constant inputs included."""
    size = h.diagonal(dim1=1, dim2=2).mean(dim=1)
    size = torch.where(size > 0, size, torch.ones_like(size))
    h = h.clone()
    h.diagonal(dim1=1, dim2=2).add_(damp * size[:, None])
    return h


@torch.no_grad()
def fitted(w: Tensor, h: Tensor, c: Tensor, damp: float) -> Tensor:
    """w* of the module's text.

    Args:
        w: float64 (groups, out / groups, k).
        h, c: as `Moments.centred` gives them.
        damp: how much w counts, against what a mean input tells; above 0.
    """
    missing = c - h @ w.transpose(1, 2)
    factor = torch.linalg.cholesky(damped(h, damp))
    return w + torch.cholesky_solve(missing, factor).transpose(1, 2)
