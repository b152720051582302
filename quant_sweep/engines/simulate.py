"""Fake quantization: float32 arithmetic on values that lie on their grids. Any width from 2 to 16 bits, CPU or GPU.

Weights are put on their grids once, activations on the way, by four elementwise operations in place: the same float32
steps as `affine.fake_quantize`, hence on the CPU the same values bit for bit. There they take an eighth of the time of
torch's fused kernel (0.5 against 4 ns a value), which also multiplies by 1 / scale where they divide and so rounds some
ties differently. Sums are accumulated in float32, not in integers.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

from torch import nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.base import Engine
from quant_sweep.graph import FakeQuantize, QuantGraph, insert_at_quantizers, weights_on_grid


@final
class Simulate(Engine):
    """Quantization simulated in float32."""

    devices = ("cpu", "cuda")

    def build(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> nn.Module:
        quantizers = {q.name: FakeQuantize(qparams[q.name]) for q in graph.activations if q.name in qparams}
        return insert_at_quantizers(graph, quantizers, weights_on_grid(graph, qparams))
