"""The sum behind one output value, term by term: which inputs its window covers, and with which weights they meet."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_sweep.explain.carried import Term
from quant_sweep.explain.dataflow import Dataflow
from quant_sweep.explain.integer_layer import IntegerLayer
from quant_sweep.explain.recording import Recording


def terms_of(dataflow: Dataflow, place: tuple[int, ...], integer: IntegerLayer, recording: Recording) -> Iterator[Term]:
    """The products of one sum, in the order of the weight's entries.

    Args:
        place: of the output: image, channel, row, column; or image, feature.
    """
    image, channel = place[0], place[dataflow.channel_axis]
    x = recording.before_rounding(dataflow.step.x)[image]
    codes = recording.codes(dataflow.step.x)[image]
    positions = torch.arange(1, x.numel() + 1).reshape(x.shape)  # 0 will be padding
    filled = ((x, 0.0), (codes, float(dataflow.x_grid.zero_point)), (positions, 0.0))
    windows = (_window(dataflow.module, values.double(), place[1:], fill) for values, fill in filled)
    rows = (*windows, dataflow.weight[channel].flatten(), integer.weight[channel].flatten())
    for real, code, position, weight, weight_code in zip(*(row.tolist() for row in rows), strict=True):
        index = torch.unravel_index(torch.tensor(int(position) - 1), x.shape) if position else None
        where = None if index is None else tuple(int(i) for i in index)
        yield Term(where, real, int(code), weight, int(weight_code))


def _window(module: nn.Module, x: Tensor, place: tuple[int, ...], fill: float) -> Tensor:
    """The inputs that one output is made of, in the order of the weight's entries.

    Args:
        x: of one image, without the batch axis.
        place: of the output, without the image.
        fill: what stands for zero padding.
    """
    if isinstance(module, nn.Linear):
        return x[place[:-1]].flatten()
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)
    channel, *spot = place
    around = list(module._reversed_padding_repeated_twice)
    if module.padding_mode == "zeros":
        padded = F.pad(x[None], around, value=fill)[0]
    else:
        padded = F.pad(x[None], around, mode=module.padding_mode)[0]
    group, width = channel // (module.out_channels // module.groups), module.in_channels // module.groups
    slices = [
        slice(at * stride, at * stride + dilation * (size - 1) + 1, dilation)
        for at, stride, dilation, size in zip(spot, module.stride, module.dilation, module.kernel_size, strict=True)
    ]
    return padded[(slice(group * width, (group + 1) * width), *slices)].flatten()
