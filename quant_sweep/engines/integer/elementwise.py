"""Functions of one code, sums of two, averages, and what moves or compares codes; in integers."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.fixed_point import fixed_point_of, multiply_and_divide
from quant_sweep.engines.integer.stored import Stored, add_up, fine_factor
from quant_sweep.engines.integer.windows import adaptive_windows, reduce_windows, summing
from quant_sweep.engines.lowering import Kernel, Lookup, Moved, PooledAverage, Sum, bounds
from quant_sweep.graph.operations import AdaptiveMaxPool, MaxPool


def lookup_kernel(step: Lookup, constants: Mapping[str, Tensor]) -> Kernel:
    """A table of the function at every code, made when the network is built."""
    assert step.out.grid is not None
    assert step.x.grid is not None
    spec = step.x.grid.spec
    real = dequantize(torch.arange(spec.qmin, spec.qmax + 1, dtype=torch.int32), step.x.grid)
    if step.operation is not None:
        real = step.operation(real, *[constants[name] for name in step.constants])
    codes = quantize(real, step.out.grid)
    if step.limits is not None:
        codes = codes.clamp(*bounds(step.out.grid, step.limits))
    table = (codes - step.out.grid.spec.qmin).to(torch.uint8)
    return lambda u: table.index_select(0, u.reshape(-1).to(torch.int32)).view(u.shape)


def sum_kernel(step: Sum) -> Kernel:
    """x + y on the grid that the sum is written on."""
    x, y, target = (Stored.of(grid) for grid in (step.x.grid, step.y.grid, step.out.grid))
    x_factor, y_factor = fine_factor(x.scale, target), fine_factor(y.scale, target)
    clamp = target.within(step.limits)
    return lambda u, v: target.write(add_up((x.counts(u), x_factor), (y.counts(v), y_factor)), clamp)


def average_kernel(step: PooledAverage) -> Kernel:
    """Whole sums, rescaled and divided at once."""
    source, target = Stored.of(step.x.grid), Stored.of(step.out.grid)
    factor = fixed_point_of(torch.tensor(source.scale / target.scale, dtype=torch.float64))
    sums = summing(step.operation)

    def average(u: Tensor) -> Tensor:
        total, sizes = sums(source.counts(u))
        return target.write(multiply_and_divide(total, factor, sizes), (0, target.steps))

    return average


def move_kernel(step: Moved) -> Kernel:
    """torch's own operation, but for the max-pooling that it has for floats only."""
    operation = step.operation
    if isinstance(operation, MaxPool) and len(operation.kernel) == 1:
        return _max_pool1d(operation)
    if isinstance(operation, AdaptiveMaxPool):
        return lambda u: _adaptive_max_pool(u, operation.size)
    if isinstance(operation, MaxPool):
        return lambda u: operation(u.contiguous())  # channels last, torch counts the places of uint8 in 8 bits
    return operation


def _max_pool1d(pool: MaxPool) -> Kernel:
    """One row of two-dimensional pooling, which torch has for whole numbers."""
    (k,), (s,), (p,), (d,) = pool.kernel, pool.stride, pool.padding, pool.dilation
    return lambda u: F.max_pool2d(u.unsqueeze(-2), (1, k), (1, s), (0, p), (1, d), pool.ceil).squeeze(-2)


def _adaptive_max_pool(x: Tensor, sizes: tuple[int, ...]) -> Tensor:
    for axis, size in enumerate(sizes, start=-len(sizes)):
        windows = adaptive_windows(x.shape[axis], size)
        x = reduce_windows(x, windows, axis, lambda part, axis: part.amax(axis, keepdim=True))
    return x
