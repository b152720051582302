"""Fake quantization: float32 arithmetic on values that lie on their grids. Any width from 2 to 16 bits, CPU or GPU.

Weights are put on their grids once, activations by torch's fused fake-quantize kernel on the way. That kernel
multiplies by 1 / scale where `affine.py` divides, so the two may differ by one code where a value lies within float
rounding of the middle between two codes. Sums are accumulated in float32, not in integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from quant_sweep.engines.base import Engine
from quant_sweep.graph import QuantGraph, insert_at_points, put_weights_on_grid
from quant_sweep.spec import QParams


@final
class Simulate(Engine):
    """Quantization simulated in float32."""

    def build(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> nn.Module:
        points = {p.name: FakeQuantize(qparams[p.name]) for p in graph.activations if p.name in qparams}
        network = insert_at_points(graph, points)
        put_weights_on_grid(network, graph, qparams)
        return network


@final
class FakeQuantize(nn.Module):
    """The nearest value of a per-tensor grid, in real units."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        self.scale = float(qparams.scale)
        self.zero_point = int(qparams.zero_point)
        self.qmin, self.qmax = qparams.spec.qmin, qparams.spec.qmax

    def forward(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(x, self.scale, self.zero_point, self.qmin, self.qmax)
