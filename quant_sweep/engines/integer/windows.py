"""What pooling sums over: a window of an image is a window of each axis, so the axes are done one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quant_sweep.engines.lowering import bound


@final
@dataclass(frozen=True)
class Window:
    """From `start` up to `stop` on an axis; `size` is how many places count in an average, padding perhaps included."""

    start: int
    stop: int
    size: int


SumsAndSizes = tuple[Tensor, Tensor]  # int32 sums, and how many values each stands for, int64, broadcasting over them


def summing(node: fx.Node, modules: dict[str, nn.Module]) -> Callable[[Tensor], SumsAndSizes]:
    """The sums of an average over int32 numbers, and their sizes, for a node that averages."""
    module = modules[str(node.target)] if node.op == "call_module" else None
    if isinstance(module, nn.AdaptiveAvgPool1d | nn.AdaptiveAvgPool2d | nn.AdaptiveAvgPool3d):
        return lambda x: _adaptive(x, module.output_size, _axes_of(module))
    if isinstance(module, nn.AvgPool1d | nn.AvgPool2d | nn.AvgPool3d):
        geometry = (module.kernel_size, module.stride, module.padding, module.ceil_mode, module.count_include_pad)
        return lambda x: _pooled(x, *geometry, getattr(module, "divisor_override", None), _axes_of(module))
    reads = node.all_input_nodes[:1]
    if node.target in {F.adaptive_avg_pool1d, F.adaptive_avg_pool2d}:
        axes = 1 if node.target is F.adaptive_avg_pool1d else 2
        return bound(lambda input, output_size: _adaptive(input, output_size, axes), node, reads)
    if node.target in {F.avg_pool1d, F.avg_pool2d}:
        axes = 1 if node.target is F.avg_pool1d else 2
        return bound(_with_defaults(axes), node, reads)
    return bound(_mean, node, reads)


def _axes_of(module: nn.Module) -> int:
    return int(type(module).__name__[-2])  # AvgPool2d


def _with_defaults(axes: int) -> Callable[..., SumsAndSizes]:
    """torch's functions, by the names of their arguments."""

    def pooled(
        input: Tensor,
        kernel_size: Any,
        stride: Any = None,
        padding: Any = 0,
        ceil_mode: bool = False,
        count_include_pad: bool = True,
        divisor_override: int | None = None,
    ) -> SumsAndSizes:
        return _pooled(input, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor_override, axes)

    return pooled


def _mean(input: Tensor, dim: Any = None, keepdim: bool = False) -> SumsAndSizes:
    sums = input.sum(dim, keepdim=keepdim, dtype=torch.int32)
    return sums, torch.tensor(input.numel() // max(sums.numel(), 1))


def _pooled(
    x: Tensor, kernel: Any, stride: Any, padding: Any, ceil_mode: bool, with_padding: bool, divisor: Any, axes: int
) -> SumsAndSizes:
    kernels, strides, paddings = (_per_axis(value, axes) for value in (kernel, stride or kernel, padding))
    windows = [
        _pool_windows(*geometry, ceil_mode, with_padding)
        for geometry in zip(x.shape[-axes:], kernels, strides, paddings, strict=True)
    ]
    sums, sizes = sum_over(x, windows)
    return sums, torch.tensor(divisor) if divisor else sizes


def _pool_windows(
    length: int, kernel: int, stride: int, padding: int, ceil_mode: bool, with_padding: bool
) -> list[Window]:
    """As torch lays them: none begins in the padding on the right."""
    span = length + 2 * padding - kernel
    count = (-(-span // stride) if ceil_mode else span // stride) + 1
    if ceil_mode and (count - 1) * stride >= length + padding:
        count -= 1
    windows = []
    for start in range(-padding, -padding + count * stride, stride):
        stop = min(start + kernel, length + padding)
        inside = max(start, 0), min(stop, length)
        windows.append(Window(*inside, stop - start if with_padding else inside[1] - inside[0]))
    return windows


def _adaptive(x: Tensor, output_size: Any, axes: int) -> SumsAndSizes:
    sizes = [size or length for size, length in zip(_per_axis(output_size, axes), x.shape[-axes:], strict=True)]
    return sum_over(x, [adaptive_windows(*both) for both in zip(x.shape[-axes:], sizes, strict=True)])


def adaptive_windows(length: int, count: int) -> list[Window]:
    """As torch lays them: window i reaches from floor(i length / count) to ceil((i + 1) length / count)."""
    ends = [(i * length // count, math.ceil((i + 1) * length / count)) for i in range(count)]
    return [Window(start, stop, stop - start) for start, stop in ends]


def sum_over(x: Tensor, windows: Sequence[list[Window]]) -> SumsAndSizes:
    """Sums over the windows of the last axes, int32, and their sizes."""
    sizes = torch.ones((), dtype=torch.int64)
    for axis, along in zip(range(-len(windows), 0), windows, strict=True):
        x = reduce_windows(x, along, axis, lambda part, axis: part.sum(axis, keepdim=True, dtype=torch.int32))
        sizes = sizes[..., None] * torch.tensor([window.size for window in along])
    return x, sizes


def reduce_windows(x: Tensor, windows: list[Window], axis: int, reduce: Callable[[Tensor, int], Tensor]) -> Tensor:
    """What `reduce` makes of each window of one axis, side by side."""
    parts = [reduce(x.narrow(axis, window.start, window.stop - window.start), axis) for window in windows]
    return torch.cat(parts, dim=axis)


def _per_axis(value: Any, axes: int) -> list[Any]:
    return list(value) * (axes // len(value)) if isinstance(value, tuple | list) else [value] * axes
