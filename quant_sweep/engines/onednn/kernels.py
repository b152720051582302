"""A kernel for each kind of step."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import (
    Compute,
    Dequantize,
    Kernel,
    Layer,
    Lookup,
    Moved,
    Padded,
    PooledAverage,
    Quantize,
    Step,
    Sum,
)
from quant_sweep.engines.onednn.elementwise import average_kernel, lookup_kernel, sum_kernel
from quant_sweep.engines.onednn.layers import layer_kernel
from quant_sweep.engines.onednn.moves import move_kernel
from quant_sweep.engines.onednn.placed import Placed


def kernel_of(step: Step, constants: Mapping[str, Tensor], qparams: Mapping[str, QParams], overwrite: bool) -> Kernel:
    """What computes `step`; weights are packed here.

    Args:
        step: of a lowered network whose grids have at most 8 bits.
        constants: of the float network, by name.
        qparams: by tensor name, for the weights.
        overwrite: whether the second input of a sum, or the residual of a layer, may be written over.
    """
    match step:
        case Quantize():
            return Placed.of(step.out.grid).put
        case Dequantize():
            return Placed.of(step.x.grid).take
        case Padded():
            padding, zero = list(step.padding), Placed.of(step.x.grid).zero
            return lambda u: F.pad(u, padding, value=zero)
        case Lookup():
            return lookup_kernel(step, constants)
        case PooledAverage():
            return average_kernel(step)
        case Sum():
            return sum_kernel(step, overwrite)
        case Layer():
            return layer_kernel(step, constants, qparams[step.weight], overwrite)
        case Moved():
            return move_kernel(step)
        case Compute():
            return step.operation
        case _:
            raise TypeError(f"no kernel for {type(step).__name__}")
