"""A kernel for each kind of step."""

from __future__ import annotations

from collections.abc import Mapping

import torch.nn.functional as F
from torch import nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import (
    Average,
    Compute,
    Dequantize,
    Kernel,
    Layer,
    Lookup,
    Move,
    Pad,
    Quantize,
    Step,
    Sum,
    everywhere,
    node_kernel,
)
from quant_sweep.engines.onednn.elementwise import average_kernel, lookup_kernel, sum_kernel
from quant_sweep.engines.onednn.layers import layer_kernel
from quant_sweep.engines.onednn.moves import move_kernel
from quant_sweep.engines.onednn.placed import Placed


def kernel_of(step: Step, modules: Mapping[str, nn.Module], qparams: Mapping[str, QParams], overwrite: bool) -> Kernel:
    """What computes `step`; weights are packed here.

    Args:
        step: of a lowered network whose grids have at most 8 bits.
        modules: of the network, by path.
        qparams: by tensor name, for the weights.
        overwrite: whether the second input of a sum, or the residual of a layer, may be written over.
    """
    match step:
        case Quantize():
            return Placed.of(step.out.grid).put
        case Dequantize():
            return everywhere(Placed.of(step.x.grid).take)
        case Pad():
            padding, zero = list(step.padding), Placed.of(step.x.grid).zero
            return lambda u: F.pad(u, padding, value=zero)
        case Lookup():
            return lookup_kernel(step, modules)
        case Average():
            return average_kernel(step, modules)
        case Sum():
            return sum_kernel(step, overwrite)
        case Layer():
            return layer_kernel(step, modules[step.module], qparams[f"{step.module}.weight"], overwrite)
        case Move():
            return move_kernel(step, modules)
        case Compute():
            return node_kernel(step.node, tuple(step.reads), modules)
        case _:
            raise TypeError(f"no kernel for {type(step).__name__}")
