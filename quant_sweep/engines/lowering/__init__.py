"""From a graph and its grids to steps of integer arithmetic, without saying which library computes them."""

from quant_sweep.engines.lowering.eight_bits import check_layers, check_weights, why_unsupported
from quant_sweep.engines.lowering.lower import lower
from quant_sweep.engines.lowering.node import Kernel, bound, everywhere, node_kernel
from quant_sweep.engines.lowering.program import NetworkOfCodes, Program, See, codes_by_point
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
    "Kernel",
    "Layer",
    "Lookup",
    "Lowered",
    "Move",
    "NetworkOfCodes",
    "Pad",
    "Program",
    "Quantize",
    "See",
    "Step",
    "Sum",
    "Value",
    "bound",
    "bounds",
    "check_layers",
    "check_weights",
    "codes_by_point",
    "everywhere",
    "lower",
    "node_kernel",
    "same_grid",
    "why_unsupported",
]
