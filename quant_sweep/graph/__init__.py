"""From a float model to a graph that knows where its tensors are quantized."""

from quant_sweep.graph.fake_quantize import FakeQuantize
from quant_sweep.graph.insert import insert_at_points, put_weights_on_grid
from quant_sweep.graph.points import ActivationPoint, Fusion, QuantGraph, WeightPoint, after_clamp, quantizable

__all__ = [
    "ActivationPoint",
    "FakeQuantize",
    "Fusion",
    "QuantGraph",
    "WeightPoint",
    "after_clamp",
    "insert_at_points",
    "put_weights_on_grid",
    "quantizable",
]
