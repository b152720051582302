"""`bias`: every layer gets the bias that makes the means of its outputs those of the float network; weights stay.

Layer after layer, each from what the quantized network really reads.

Sources: Finkelstein et al. 2019, arXiv:1906.03193; empirical bias correction of Nagel et al. 2019, arXiv:1906.04721.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from quant_sweep.graph import QuantGraph
from quant_sweep.recovery.base import OnGrids, Recovery
from quant_sweep.recovery.walk import walk


@final
@dataclass(frozen=True)
class Bias(Recovery):
    """New biases only."""

    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        return walk(original, quantized, batches, lambda layer: (layer.weight, layer.grid))
