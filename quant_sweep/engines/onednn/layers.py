"""Convolution and linear layers as steps have them: padding, the residual, and what is written."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import Kernel, Layer
from quant_sweep.engines.onednn.convolution import (
    ConvolutionWeights,
    convolution,
    convolution_onto,
    post_op_of,
    written,
)
from quant_sweep.engines.onednn.placed import TOP, Placed

Convolution = nn.Conv1d | nn.Conv2d | nn.Conv3d


def layer_kernel(step: Layer, module: nn.Module, grid: QParams, overwrite: bool) -> Kernel:
    """clamp(layer(x) + residual), in codes or, unrounded, in float.

    Args:
        module: the layer in float.
        grid: of its weight.
        overwrite: whether the residual may be written over.
    """
    if isinstance(module, nn.Linear):
        return _linear_layer(step, module, grid)
    assert isinstance(module, Convolution)
    source = Placed.of(step.x.grid)
    target = None if step.out.grid is None else Placed.of(step.out.grid)
    limits = (0, TOP) if step.out.grid is None else Placed.of(step.out.grid).bounds(step.out.grid, step.limits)
    pad, padding = _padding(module, source.zero)
    weights = ConvolutionWeights(
        *_weight_scales_bias(module, grid), list(module.stride), padding, list(module.dilation), module.groups
    )
    if step.residual is None:
        run = convolution(weights, source, target, limits)
        return lambda u: run(pad(u))
    unfused = _layer_then_sum(convolution(weights, source, None, limits), step)
    if weights.dims != 2:
        return lambda u, residual: unfused(pad(u), residual)
    assert target is not None
    fused = convolution_onto(weights, source, Placed.of(step.residual.grid), target, limits)
    out_shape = _shape_of_output(module, padding)

    def with_residual(u: Tensor, residual: Tensor) -> Tensor:
        u = pad(u)
        if residual.shape != out_shape(u):  # it is broadcast
            return unfused(u, residual)  # type: ignore[no-any-return]
        accumulator = residual if overwrite else residual.clone()
        return fused(u, accumulator.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    return with_residual


def _linear_layer(step: Layer, module: nn.Linear, grid: QParams) -> Kernel:
    source = Placed.of(step.x.grid)
    target = None if step.out.grid is None or step.residual is not None else Placed.of(step.out.grid)
    limits = (0, TOP) if step.out.grid is None or target is None else target.bounds(step.out.grid, step.limits)
    codes, scales, bias = _weight_scales_bias(module, grid)
    weights = (torch.ops.onednn.qlinear_prepack(codes, None), scales, torch.zeros(len(scales), dtype=torch.int32), bias)
    kernel, writes = torch.ops.onednn.qlinear_pointwise.default, (*written(target), *post_op_of(target, limits), "")

    def linear(u: Tensor) -> Tensor:
        return kernel(u, source.scale, source.zero, *weights, *writes)  # type: ignore[no-any-return]

    return linear if step.residual is None else _layer_then_sum(linear, step)


def _weight_scales_bias(module: Convolution | nn.Linear, grid: QParams) -> tuple[Tensor, Tensor, Tensor | None]:
    """int8 codes of the weight, its scales float32 (out,) or (1,), and the bias in float32."""
    bias = None if module.bias is None else module.bias.detach().clone()
    return quantize(module.weight.detach(), grid).to(torch.int8), grid.scale.reshape(-1), bias


def _layer_then_sum(layer: Kernel, step: Layer) -> Kernel:
    """A layer that leaves its sums in float, and the residual added there."""
    assert step.residual is not None
    assert step.out.grid is not None
    residual_at, target = Placed.of(step.residual.grid), Placed.of(step.out.grid)
    lowest, highest = target.bounds(step.out.grid, step.limits)
    return lambda u, residual: target.put(layer(u) + residual_at.take(residual)).clamp_(lowest, highest)


def _padding(module: Convolution, zero: int) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """What is padded before the kernel, and what by it: zeros, as many on either side."""
    around = list(module._reversed_padding_repeated_twice)  # last axis first: (left, right, top, bottom, ...)
    # Where a whole window lies in the padding, oneDNN's kernels leave the zero-point uncorrected.
    inside = all(size < span for size, span in zip(around[::2][::-1], _spans(module), strict=True))
    if module.padding_mode == "zeros" and around[::2] == around[1::2] and inside:
        return lambda u: u, around[::2][::-1]
    nothing = [0] * (len(around) // 2)
    if module.padding_mode == "zeros":
        return lambda u: F.pad(u, around, value=zero), nothing
    mode = module.padding_mode
    return lambda u: F.pad(u, around, mode=mode), nothing


def _shape_of_output(module: Convolution, padding: list[int]) -> Callable[[Tensor], tuple[int, ...]]:
    spans = _spans(module)

    def shape(u: Tensor) -> tuple[int, ...]:
        sides = zip(u.shape[2:], padding, spans, module.stride, strict=True)
        return (u.shape[0], module.out_channels, *((size + 2 * p - span) // s + 1 for size, p, span, s in sides))

    return shape


def _spans(module: Convolution) -> list[int]:
    """How far a window reaches along each axis."""
    return [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
