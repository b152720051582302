"""What selects, moves or compares codes: torch's own operations, on uint8 where they have kernels for it."""

from __future__ import annotations

import torch
from torch import Tensor

from quant_sweep.engines.lowering import Kernel, Moved, computes_on_uint8
from quant_sweep.graph.operations import MaxPool


def move_kernel(step: Moved) -> Kernel:
    """What selects, moves or compares codes; by way of float32, which holds them exactly, where torch has no kernel
    for uint8."""
    operation = step.operation
    if isinstance(operation, MaxPool) and len(operation.kernel) == 2:
        return _max_pool2d(operation)
    # Of some operations torch's uint8 kernels take images of at most 255 pixels.
    if computes_on_uint8(step) and not isinstance(operation, MaxPool):
        return operation
    return lambda u, *constants: operation(u.to(torch.float32), *constants).to(torch.uint8)


def _max_pool2d(pool: MaxPool) -> Kernel:
    """Max-pooling of codes, ten times faster than through float."""
    geometry = [list(sizes) for sizes in (pool.kernel, pool.stride, pool.padding, pool.dilation)]

    def run(u: Tensor) -> Tensor:
        return torch.ops.quantized.max_pool2d.default(u, *geometry, pool.ceil)  # type: ignore[no-any-return]

    return run
