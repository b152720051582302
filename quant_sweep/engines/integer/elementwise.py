"""Functions of one code, sums of two, averages, and what moves or compares codes; in integers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.fixed_point import fixed_point_of, multiply_and_divide
from quant_sweep.engines.integer.stored import Stored, add_up, fine_factor
from quant_sweep.engines.integer.windows import adaptive_windows, reduce_windows, summing
from quant_sweep.engines.lowering import Average, Kernel, Lookup, Move, Sum, bound, bounds, node_kernel


def lookup_kernel(step: Lookup, modules: Mapping[str, nn.Module]) -> Kernel:
    """A table of the function at every code, made when the network is built."""
    assert step.out.grid is not None
    assert step.x.grid is not None
    spec = step.x.grid.spec
    real = dequantize(torch.arange(spec.qmin, spec.qmax + 1, dtype=torch.int32), step.x.grid)
    if step.node is not None:
        real = node_kernel(step.node, (step.node.all_input_nodes[0],), modules)(real)
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


def average_kernel(step: Average, modules: Mapping[str, nn.Module]) -> Kernel:
    """Whole sums, rescaled and divided at once."""
    source, target = Stored.of(step.x.grid), Stored.of(step.out.grid)
    factor = fixed_point_of(torch.tensor(source.scale / target.scale, dtype=torch.float64))
    sums = summing(step.node, dict(modules))

    def average(u: Tensor) -> Tensor:
        total, sizes = sums(source.counts(u))
        return target.write(multiply_and_divide(total, factor, sizes), (0, target.steps))

    return average


def move_kernel(step: Move, modules: Mapping[str, nn.Module]) -> Kernel:
    """torch's own operation, but for the max-pooling that it has for floats only."""
    node, reads = step.node, tuple(step.reads)
    module = modules[str(node.target)] if node.op == "call_module" else None
    if isinstance(module, nn.MaxPool1d):
        geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
        return lambda u: _max_pool1d(u, *geometry)
    if node.target is F.max_pool1d:
        return bound(_max_pool1d, node, reads)
    if isinstance(module, nn.AdaptiveMaxPool2d):
        return lambda u: _adaptive_max_pool2d(u, module.output_size)
    if node.target is F.adaptive_max_pool2d:
        return bound(_adaptive_max_pool2d, node, reads)
    return node_kernel(node, reads, modules)


def _max_pool1d(
    input: Tensor,  # the names of torch.nn.functional's arguments
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,  # lowering leaves out where it is asked for
) -> Tensor:
    assert not return_indices
    k, s, p, d = (
        value[0] if isinstance(value, tuple | list) else value
        for value in (kernel_size, stride or kernel_size, padding, dilation)
    )
    return F.max_pool2d(input.unsqueeze(-2), (1, k), (1, s), (0, p), (1, d), ceil_mode).squeeze(-2)


def _adaptive_max_pool2d(input: Tensor, output_size: Any, return_indices: bool = False) -> Tensor:
    assert not return_indices
    sizes = output_size if isinstance(output_size, tuple | list) else (output_size, output_size)
    for axis, size in zip((-2, -1), sizes, strict=True):
        length = input.shape[axis]
        windows = adaptive_windows(length, size or length)
        input = reduce_windows(input, windows, axis, lambda part, axis: part.amax(axis, keepdim=True))
    return input
