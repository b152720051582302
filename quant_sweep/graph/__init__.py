"""From a float model to a graph of records that knows where its tensors are quantized."""

from quant_sweep.graph.capture import Captured, capture_float
from quant_sweep.graph.fake_quantize import FakeQuantize
from quant_sweep.graph.fusion import Fusion
from quant_sweep.graph.graph import INPUT, Graph, Node
from quant_sweep.graph.insert import insert_at_quantizers, weights_on_grid
from quant_sweep.graph.interpret import Network
from quant_sweep.graph.quantizers import (
    ActivationQuantizer,
    QuantGraph,
    WeightQuantizer,
    after_clamp,
    capture,
    with_quantizers,
)

__all__ = [
    "INPUT",
    "ActivationQuantizer",
    "Captured",
    "FakeQuantize",
    "Fusion",
    "Graph",
    "Network",
    "Node",
    "QuantGraph",
    "WeightQuantizer",
    "after_clamp",
    "capture",
    "capture_float",
    "insert_at_quantizers",
    "weights_on_grid",
    "with_quantizers",
]
