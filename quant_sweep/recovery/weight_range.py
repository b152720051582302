"""`weight_range`: the scale of every weight's grid is the one that serves the layer's output; codes are the nearest.

Of scales s up to that which clips no weight, and a little above, the one with the least

    (w* - s q) H (w* - s q)        q the nearest codes of w, H and w* as in `moments`

which is, but for a constant, the squared error of the output against the float network's. A range that is best for the
weights shrinks the output, and a sum of thousands of products feels that more than the rounding of each.

Source: Choukroun et al. 2019, arXiv:1902.06822, and Nagel et al. 2021, arXiv:2106.08295, section 3.1, for ranges by the
error of outputs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import QuantGraph
from quant_sweep.recovery.base import OnGrids, Recovery, check_positive, check_whole
from quant_sweep.recovery.moments import damped, fitted, moments_of
from quant_sweep.recovery.rounding import Levels, cost, nearest, scale_without_clipping
from quant_sweep.recovery.rows import rows_of_weight, scales_of_rows
from quant_sweep.recovery.walk import Layer, walk

_COARSE = torch.linspace(0.06, 1.2, 58).tolist()  # of the smallest scale that clips nothing
_FINE = torch.linspace(0.96, 1.04, 9).tolist()  # of the best of these


@final
@dataclass(frozen=True)
class WeightRange(Recovery):
    """Scales of weights and biases, layer by layer; each weight is rounded for itself.

    Attributes:
        rows: outputs of each layer, drawn at random over all inputs; from 1.
        damp: as in `Reconstruct`.
        seed: of the draw of rows.

    Raises:
        InputError: a value is not allowed.
    """

    rows: int = 16384
    damp: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, rows=1, seed=0)
        check_positive(self, "damp")

    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        generator = torch.Generator().manual_seed(self.seed)
        return walk(original, quantized, batches, lambda layer: self._scaled(layer, generator))

    def _scaled(self, layer: Layer, generator: torch.Generator) -> tuple[Tensor, QParams]:
        spec = layer.grid.spec
        h, c = moments_of(layer, self.rows, generator)
        original, w = (rows_of_weight(layer.operation, v).double() for v in (layer.original, layer.weight))
        levels = Levels(spec.qmin, spec.qmax, spec.channel_axis is not None)
        before = layer.grid.scale.double().expand(w.shape[0] * w.shape[1]).reshape(w.shape[:2])
        scale = best_scale(w, fitted(original, h, c, self.damp), damped(h, self.damp), levels, before)
        return layer.weight, QParams(scales_of_rows(scale, layer.grid), layer.grid.zero_point, spec)


def best_scale(w: Tensor, target: Tensor, h: Tensor, levels: Levels, before: Tensor) -> Tensor:
    """The scale with the least error of the output.

    Args:
        w: float64 (groups, channels, k); its nearest codes are used.
        target: the weights whose output is wanted, shaped like w.
        h: float64 (groups, k, k), positive definite.
        levels: the codes.
        before: the scale of today, float64 (groups, channels).

    Returns:
        shaped like before; the same for all without `levels.per_channel`.
    """
    best = _cheapest(w, target, h, levels, [before, *_around(scale_without_clipping(w, levels), _COARSE)])
    return _cheapest(w, target, h, levels, [best, *_around(best, _FINE)])


def _around(scale: Tensor, factors: Sequence[float]) -> list[Tensor]:
    return [scale * factor for factor in factors]


def _cheapest(w: Tensor, target: Tensor, h: Tensor, levels: Levels, scales: Sequence[Tensor]) -> Tensor:
    """The best of some scales, for each channel or for all together; each is (groups, channels), as the result."""
    best, least = scales[0], torch.full_like(scales[0], torch.inf)
    for scale in scales:
        error = cost(target, h, nearest(w, scale, levels), scale)
        error = error if levels.per_channel else error.sum().expand(error.shape)
        best, least = torch.where(error < least, scale, best), torch.minimum(error, least)
    return best
