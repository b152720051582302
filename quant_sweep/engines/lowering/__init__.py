"""From a graph and its grids to steps of integer arithmetic, without saying which library computes them."""

from quant_sweep.engines.lowering.eight_bits import (
    check_biases,
    check_layers,
    check_weights,
    largest_product,
    why_unsupported,
)
from quant_sweep.engines.lowering.lower import lower
from quant_sweep.engines.lowering.program import Kernel, NetworkOfCodes, Program, See, codes_by_quantizer, returned
from quant_sweep.engines.lowering.steps import (
    Compute,
    Dequantize,
    Layer,
    Lookup,
    Lowered,
    Moved,
    Padded,
    PooledAverage,
    Quantize,
    Step,
    Sum,
    Value,
    bounds,
    computes_on_uint8,
    same_grid,
)

__all__ = [
    "Compute",
    "Dequantize",
    "Kernel",
    "Layer",
    "Lookup",
    "Lowered",
    "Moved",
    "NetworkOfCodes",
    "Padded",
    "PooledAverage",
    "Program",
    "Quantize",
    "See",
    "Step",
    "Sum",
    "Value",
    "bounds",
    "check_biases",
    "check_layers",
    "check_weights",
    "codes_by_quantizer",
    "computes_on_uint8",
    "largest_product",
    "lower",
    "returned",
    "same_grid",
    "why_unsupported",
]
