"""`batch_norm`: every channel of every layer gets back the mean and the spread that it has in the float network.

What estimating BatchNorm's statistics again on the quantized network does, with BatchNorm folded or not: the layer in
front of it gets a gain per channel and a bias. The gain goes into the scale of the weight's grid, so that its codes
stay; a grid with one scale for all channels gets one gain.

Source: Sun et al. 2019, "Hybrid 8-bit floating point training", for estimating statistics after quantization; for
few bits Finkelstein et al. 2019, arXiv:1906.03193.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import along_channels, fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import QuantGraph
from quant_sweep.graph.operations import Linear
from quant_sweep.recovery.base import OnGrids, Recovery
from quant_sweep.recovery.walk import Layer, channel_means, walk


@final
@dataclass(frozen=True)
class BatchNormStatistics(Recovery):
    """A gain and a bias per channel."""

    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        return walk(original, quantized, batches, _with_gain)


def _with_gain(layer: Layer) -> tuple[Tensor, QParams]:
    rounded = fake_quantize(layer.weight, layer.grid)
    axis = -1 if isinstance(layer.operation, Linear) else 1
    wanted = _variances(layer.targets, axis)
    found = _variances([layer.operation(x, rounded) for x in layer.inputs], axis)
    if layer.grid.spec.channel_axis is None:
        wanted, found = wanted.sum(), found.sum()
    known = (wanted > 0) & (found > 0)
    gain = torch.where(known, wanted / found, 1.0).sqrt().float()
    grid = QParams(layer.grid.scale * gain, layer.grid.zero_point, layer.grid.spec)
    return layer.weight * along_channels(gain, layer.weight, layer.grid.spec.channel_axis), grid


def _variances(batches: Iterable[Tensor], axis: int) -> Tensor:
    """Of every channel over all else, float64 (channels,)."""
    about = channel_means(batches, axis).float()
    return channel_means(((batch - along_channels(about, batch, axis)).square() for batch in batches), axis)
