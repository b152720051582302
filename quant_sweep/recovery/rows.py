"""What a layer reads and should write, as rows: some outputs of a convolution, each with the window that it is made of.

A convolution is a linear layer of its windows (im2col). A random choice of windows is enough for the second moments of
what a layer reads. A transposed convolution is first written as a convolution (`engines.spread`).
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.spread import direct_form, spread_out
from quant_sweep.graph.operations import Convolution, Linear, Weighted, padding_of_torch


def rows_of_weight(operation: Weighted, weight: Tensor) -> Tensor:
    """A weight, (out, in / groups, *kernel), as it multiplies `sampled_rows`: (groups, out / groups, k)."""
    groups = 1
    if isinstance(operation, Convolution):
        groups, weight = operation.groups, direct_form(operation, weight)[1]
    return weight.reshape(groups, len(weight) // groups, -1)


def weight_of_rows(operation: Weighted, rows: Tensor, shape: torch.Size) -> Tensor:
    """The weight that `rows_of_weight` takes apart."""
    weight = rows.reshape(shape)
    if isinstance(operation, Convolution) and operation.transposed:
        return weight.flip(tuple(range(2, weight.dim()))).contiguous()  # mirrored twice is as it was
    return weight


def sampled_rows(
    operation: Weighted, weight: Tensor, x: Tensor, y: Tensor, count: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Some outputs of a layer, and what each is made of.

    Args:
        operation: the layer's.
        weight: the layer's; only its shape matters.
        x: what it reads, (n, ...).
        y: values at the places of its outputs, (n, ...).
        count: how many places, drawn at random; all, in their order, if there are no more.

    Returns:
        windows, (groups, count, k), and values, (groups, count, out / groups).
    """
    if isinstance(operation, Linear):
        rows, values = x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1])
        chosen = _places(len(rows), count, generator).to(x.device)
        return rows[chosen][None], values[chosen][None]
    direct, kernel = direct_form(operation, weight)
    x = F.pad(spread_out(operation, 0)(x), padding_of_torch(direct.padding))
    sizes = y.shape[2:]
    places = _places(len(y) * math.prod(sizes), count, generator)
    image, place = places // math.prod(sizes), places % math.prod(sizes)
    inside = _window_offsets(direct, kernel.shape[2:], x.shape[2:])  # (k / in,)
    corner = torch.zeros_like(place)
    for axis, size in enumerate(sizes):
        index = place // math.prod(sizes[axis + 1 :]) % size
        corner += index * direct.stride[axis] * math.prod(x.shape[3 + axis :])
    image, place, window = (t.to(x.device) for t in (image, place, corner[:, None] + inside))
    windows = x.flatten(2).transpose(1, 2)[image[:, None], window]  # (count, k / in, in)
    values = y.flatten(2).transpose(1, 2)[image, place]  # (count, out)
    groups = direct.groups
    by_group = windows.transpose(1, 2).reshape(len(places), groups, -1)
    return by_group.transpose(0, 1), values.reshape(len(places), groups, -1).transpose(0, 1)


def _places(there: int, count: int, generator: torch.Generator) -> Tensor:
    if count >= there:
        return torch.arange(there)
    return torch.randint(there, (count,), generator=generator)


def _window_offsets(operation: Convolution, kernel: torch.Size, sizes: torch.Size) -> Tensor:
    """Where the values of a window lie in a flattened input, counted from its first: int64 (places of the kernel,)."""
    offsets = torch.zeros((), dtype=torch.int64)
    for axis, size in enumerate(kernel):
        along = torch.arange(size) * operation.dilation[axis] * math.prod(sizes[axis + 1 :])
        offsets = offsets[..., None] + along
    return offsets.flatten()


def scales_of_rows(scale: Tensor, grid: QParams) -> Tensor:
    """Scales float64 (groups, out / groups) as a weight's grid has them: float32, above 0, shaped like `grid.scale`."""
    scales = scale.flatten() if grid.spec.channel_axis is not None else scale.flatten()[0]
    return scales.float().clamp(min=torch.finfo(torch.float32).tiny)
