"""Second moments of what a layer reads and should write, and the weights that fit them best.

With rows x, centred, and wanted outputs y: H = sum x x^T / n, C = sum x y^T / n. The weights near to w that make the
error of the output small are

    w* = w + (H + d)^-1 (C - H w),   d = damp * mean(diag H) on the diagonal

where x is what the *quantized* network reads and y what the *float* network makes: w* mends what quantization upstream
did. With x of the float network it would be w itself.

Sources: GPTAQ, Li et al. 2025, arXiv:2504.02692 (asymmetric calibration); Qronos, Zhang et al. 2025, arXiv:2505.11695.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        self.count = 0  # rows

    def add(self, x: Tensor, y: Tensor) -> None:
        """Add rows: x float32 (groups, n, k), y (groups, n, out / groups)."""
        if self.count == 0:
            self._begin(x, y)
        x, y = x - self._about[0], y - self._about[1]
        self._x += x.sum(dim=1)
        self._y += y.sum(dim=1)
        for start in range(0, x.shape[2], _BLOCK):
            columns = slice(start, start + _BLOCK)
            self._xx[:, columns, start:] += x[:, :, columns].transpose(1, 2) @ x[:, :, start:]
        self._xy += x.transpose(1, 2) @ y
        self.count += x.shape[1]

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
        h = (upper + upper.triu(1).transpose(1, 2)).div_(self.count)
        x, y, xy = (total / self.count for total in (self._x, self._y, self._xy))
        return _with_products(h, -x, x), _with_products(xy, -x, y)

    def means(self) -> tuple[Tensor, Tensor]:
        """Of x, float64 (groups, k), and y, (groups, out / groups)."""
        x, y = (about.squeeze(1) for about in self._about)
        return x + self._x / self.count, y + self._y / self.count


def combined(parts: Sequence[Moments]) -> tuple[Tensor, Tensor]:
    """H and C of all rows, as `Moments.centred` gives them, when some were added to each part.

    Source: Chan, Golub and LeVeque 1983, The American Statistician 37, equation 2.1, for covariances.
    """
    total = sum(part.count for part in parts)
    means = [part.means() for part in parts]
    x, y = (sum(part.count * m[i] for part, m in zip(parts, means, strict=True)) / total for i in (0, 1))
    h, c = (value.mul_(parts[0].count / total) for value in parts[0].centred())
    for part in parts[1:]:
        more_h, more_c = part.centred()
        h.add_(more_h, alpha=part.count / total)
        c.add_(more_c, alpha=part.count / total)
    for part, (mean_x, mean_y) in zip(parts, means, strict=True):
        share, off = part.count / total, mean_x - x
        _with_products(h, share * off, off)
        _with_products(c, share * off, mean_y - y)
    return h, c


def _with_products(matrix: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Adds x y^T in place: matrix (groups, k, n), x (groups, k), y (groups, n)."""
    return matrix.baddbmm_(x[:, :, None], y[:, None, :])


@torch.no_grad()
def moments_of(layer: Layer, rows: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """H and C of a layer, as `Moments.centred` gives them, of some rows drawn over all its inputs."""
    count = len(layer.inputs)
    seeds = torch.randint(2**62, (count,), generator=generator).tolist()

    def added_up(numbers: range) -> Moments:
        moments = Moments()
        for i in numbers:
            own = torch.Generator().manual_seed(seeds[i])
            x, y = layer.inputs.make(i), layer.targets.make(i)
            moments.add(*sampled_rows(layer.operation, layer.original, x, y, -(-rows // count), own))
        return moments

    return combined(layer.workers.map(added_up, layer.workers.runs(count)))


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
