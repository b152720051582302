"""From a graph and its grids to steps of integer arithmetic, without saying which library computes them."""

from quant_sweep.engines.lowering.lower import lower
from quant_sweep.engines.lowering.steps import (
    Average,
    Compute,
    Dequantize,
    Layer,
    Lookup,
    Lowered,
    Move,
    Pad,
    Quantize,
    Step,
    Sum,
    Value,
    bounds,
    same_grid,
)

__all__ = [
    "Average",
    "Compute",
    "Dequantize",
    "Layer",
    "Lookup",
    "Lowered",
    "Move",
    "Pad",
    "Quantize",
    "Step",
    "Sum",
    "Value",
    "bounds",
    "lower",
    "same_grid",
]
