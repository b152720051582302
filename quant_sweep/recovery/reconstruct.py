"""`reconstruct`: weights are rounded so that each layer's output is as near to the float network's as it can be.

For each layer in turn: the weights that make the float network's output of what the quantized network reads
(`moments`), their codes and scales (`rounding`), and the bias that makes the means right (`walk`). Steps of activations
follow what the layers then make. No labels, and no gradients.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import along_channels
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import QuantGraph
from quant_sweep.recovery.base import OnGrids, Recovery, check_positive, check_share, check_whole
from quant_sweep.recovery.moments import damped, fitted, moments_of
from quant_sweep.recovery.rounding import Levels, round_weights
from quant_sweep.recovery.rows import rows_of_weight, scales_of_rows, weight_of_rows
from quant_sweep.recovery.walk import Layer, walk

_TIE = 0.499  # how far a weight may lie from its code, in codes, so that it is still the nearest


@final
@dataclass(frozen=True)
class Reconstruct(Recovery):
    """Layer by layer, without gradients.

    Attributes:
        rows: outputs of each layer, drawn at random over all inputs, that it is fitted to; from 1.
        damp: how much the float weights count against what the rows say, as a share of the mean square of what a
            layer reads; above 0.
        sweeps: over the codes, after they were first rounded; from 0.
        rescale: how far the steps of activations follow the tensors, which become smaller, see `walk`; from 0 to 1.
        seed: of the draw of rows.

    Raises:
        InputError: a value is not allowed.
    """

    rows: int = 65536
    damp: float = 0.01
    sweeps: int = 4
    rescale: float = 0.5
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, rows=1, sweeps=0, seed=0)
        check_positive(self, "damp")
        check_share(self, "rescale")

    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        generator = torch.Generator().manual_seed(self.seed)
        return walk(original, quantized, batches, lambda layer: self._weight(layer, generator), self.rescale)

    def _weight(self, layer: Layer, generator: torch.Generator) -> tuple[Tensor, QParams]:
        spec = layer.grid.spec
        h, c = moments_of(layer, self.rows, generator)
        w = fitted(rows_of_weight(layer.operation, layer.original).double(), h, c, self.damp)
        levels = Levels(spec.qmin, spec.qmax, spec.channel_axis is not None)
        codes, scale = round_weights(w, damped(h, self.damp), levels, self.sweeps)
        grid = QParams(scales_of_rows(scale, layer.grid), layer.grid.zero_point, spec)
        near = (w / scale[..., None] - codes).clamp(-_TIE, _TIE) + codes
        near = weight_of_rows(layer.operation, near, layer.original.shape)
        return (near * along_channels(grid.scale, near, spec.channel_axis)).to(layer.original.dtype), grid
