"""What pooling sums over: a window of an image is a window of each axis, so the axes are done one after the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.graph.operations import AdaptiveAveragePool, Average, AveragePool, Mean


@final
@dataclass(frozen=True)
class Window:
    """From `start` up to `stop` on an axis; `size` is how many places count in an average, padding perhaps included."""

    start: int
    stop: int
    size: int


SumsAndSizes = tuple[Tensor, Tensor]  # int32 sums, and how many values each stands for, int64, broadcasting over them


def summing(average: Average) -> Callable[[Tensor], SumsAndSizes]:
    """The sums of an average over int32 numbers, and their sizes."""
    match average:
        case AveragePool():
            return lambda x: _pooled(x, average)
        case AdaptiveAveragePool(size):
            return lambda x: _adaptive(x, size)
        case Mean():
            return lambda x: _mean(x, average)


def _mean(x: Tensor, mean: Mean) -> SumsAndSizes:
    sums = x.sum(mean.axes, keepdim=mean.keepdim, dtype=torch.int32)
    return sums, torch.tensor(x.numel() // max(sums.numel(), 1))


def _pooled(x: Tensor, pool: AveragePool) -> SumsAndSizes:
    windows = [
        _pool_windows(*geometry, pool.ceil, pool.count_padding)
        for geometry in zip(x.shape[-len(pool.kernel) :], pool.kernel, pool.stride, pool.padding, strict=True)
    ]
    sums, sizes = sum_over(x, windows)
    return sums, torch.tensor(pool.divisor) if pool.divisor else sizes


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


def _adaptive(x: Tensor, sizes: Sequence[int]) -> SumsAndSizes:
    lengths = x.shape[-len(sizes) :]
    return sum_over(x, [adaptive_windows(*both) for both in zip(lengths, sizes, strict=True)])


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
