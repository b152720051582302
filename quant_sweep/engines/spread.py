"""A transposed convolution as a convolution: its input spread out, its kernel mirrored.

With stride s, dilation d, kernel k and padding p it equals a convolution of stride 1 over the input whose values lie s
apart with zeros in between, padded by d * (k - 1) - p, and with the kernel mirrored along each axis.

Source: Dumoulin and Visin 2016, arXiv:1603.07285, section 4.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from quant_sweep.graph.operations import Convolution


def direct_form(operation: Convolution, weight: Tensor) -> tuple[Convolution, Tensor]:
    """The convolution and the weight, (out, in / groups, *kernel), to be applied to what `spread_out` returns."""
    if not operation.transposed:
        return operation, weight
    axes = range(len(operation.stride))
    reach = [d * (k - 1) for d, k in zip(operation.dilation, weight.shape[2:], strict=True)]
    padding = tuple(
        (reach[i] - operation.padding[i][0], reach[i] - operation.padding[i][1] + operation.output_padding[i])
        for i in axes
    )
    mirrored = weight.flip(tuple(range(2, weight.dim()))).contiguous()
    return Convolution((1,) * len(axes), padding, operation.dilation, operation.groups), mirrored


def spread_out(operation: Convolution, zero: int) -> Callable[[Tensor], Tensor]:
    """The input of a transposed convolution, (n, channels, ...), with codes of 0.0 between its own, `stride` apart;
    that of any other convolution as it is."""
    stride = operation.stride
    if not operation.transposed or all(step == 1 for step in stride):
        return lambda u: u

    def spread(u: Tensor) -> Tensor:
        sizes = [(size - 1) * step + 1 for size, step in zip(u.shape[2:], stride, strict=True)]
        wide = torch.full((*u.shape[:2], *sizes), zero, dtype=u.dtype)
        if u.dim() == 4:
            wide = wide.contiguous(memory_format=torch.channels_last)
        wide[(slice(None), slice(None), *(slice(None, None, step) for step in stride))] = u
        return wide

    return spread
