"""Elementwise operations on codes: functions of one code, sums of two, averages.

A function of one code is a table. A change of grid or a clamp, and the sum of two tensors, also run as a depthwise 1x1
convolution with weight 1, which is three times faster than the table, *if* it gives the very codes of the float formula
for every possible input, which is tried when the network is built.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from quant_sweep.engines.lowering import Kernel, Lookup, PooledAverage, Sum, same_grid
from quant_sweep.engines.onednn.convolution import ConvolutionWeights, convolution, convolution_onto
from quant_sweep.engines.onednn.placed import TOP, Placed, from_storage_order, storage_order

_BLOCK = 64  # channels of the depthwise convolution that stands for an elementwise operation


def lookup_kernel(step: Lookup, constants: Mapping[str, Tensor]) -> Kernel:
    """A function of one code."""
    assert step.out.grid is not None
    source, target = Placed.of(step.x.grid), Placed.of(step.out.grid)
    if step.limits is not None and same_grid(step.x.grid, step.out.grid):
        lowest, highest = target.bounds(step.out.grid, step.limits)
        return lambda u: u.clamp(lowest, highest)
    codes = torch.arange(TOP + 1, dtype=torch.uint8)
    real = source.take(codes)
    if step.operation is not None:
        real = step.operation(real, *[constants[name] for name in step.constants])
    table = target.put(real)
    if step.limits is not None:
        convolve = _depthwise(source, None, target, target.bounds(step.out.grid, step.limits))
        if torch.equal(convolve(codes)[source.codes], table[source.codes]):
            return lambda u: convolve(u) if u.numel() % _BLOCK == 0 else _gather(table, u)
    return lambda u: _gather(table, u)


def _gather(table: Tensor, u: Tensor) -> Tensor:
    dense = storage_order(u)
    return from_storage_order(table.index_select(0, dense.reshape(-1).int()).view(dense.shape))


def sum_kernel(step: Sum, overwrite: bool) -> Kernel:
    """u + v; v may be written over if `overwrite`."""
    assert step.out.grid is not None
    first, second, target = (Placed.of(grid) for grid in (step.x.grid, step.y.grid, step.out.grid))
    lowest, highest = target.bounds(step.out.grid, step.limits)

    def in_float(u: Tensor, v: Tensor) -> Tensor:
        return target.put(first.take(u) + second.take(v)).clamp_(lowest, highest)

    convolve = _depthwise(first, second, target, (lowest, highest))
    codes = torch.arange(TOP + 1, dtype=torch.uint8)
    u, v = torch.meshgrid(codes, codes, indexing="ij")
    tried, wanted = (sums[first.codes, second.codes] for sums in (convolve(u, v.clone()), in_float(u, v)))
    if not torch.equal(tried, wanted):
        return in_float

    def add(u: Tensor, v: Tensor) -> Tensor:
        if u.shape != v.shape or u.numel() % _BLOCK:
            return in_float(u, v)
        return convolve(u, v if overwrite else v.clone())  # type: ignore[no-any-return]

    return add


def _depthwise(source: Placed, accumulator: Placed | None, target: Placed, limits: tuple[int, int]) -> Kernel:
    """u -> clamp(u), or (u, v) -> clamp(u + v) with v written over, from grid to grid; a multiple of 64 codes."""
    weight = torch.ones(_BLOCK, 1, 1, 1, dtype=torch.int8)
    weights = ConvolutionWeights(weight, torch.ones(1), None, [1, 1], [0, 0], [1, 1], _BLOCK)
    if accumulator is None:
        run = convolution(weights, source, target, limits)
    else:
        run = convolution_onto(weights, source, accumulator, target, limits)

    def convolve(*operands: Tensor) -> Tensor:
        dense = [storage_order(u) for u in operands]
        rows = [u.reshape(1, -1, 1, _BLOCK).permute(0, 3, 1, 2) for u in dense]  # (1, 64, n / 64, 1), channels last
        return from_storage_order(run(*rows).permute(0, 2, 3, 1).reshape(dense[0].shape))

    return convolve


def average_kernel(step: PooledAverage) -> Kernel:
    """Averages in float, exact until they are rounded."""
    source, target = Placed.of(step.x.grid), Placed.of(step.out.grid)
    average = step.operation
    # Whole numbers below 2**24 sum exactly in float32, in any order.
    return lambda u: target.put(average(u.to(torch.float32).sub_(source.zero)).mul(source.scale))
