"""Convolution and linear layers as steps have them: padding, the residual, and what is written.

A transposed convolution is a convolution of a spread-out input: with its codes `stride` apart, zeros between them, and
the kernel mirrored (Dumoulin and Visin 2016, arXiv:1603.07285, section 4).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor

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
from quant_sweep.engines.spread import direct_form, spread_out
from quant_sweep.graph.operations import Convolution, Linear, padding_of_torch


def layer_kernel(step: Layer, constants: Mapping[str, Tensor], grid: QParams, overwrite: bool) -> Kernel:
    """clamp(layer(x) + residual), in codes or, unrounded, in float.

    Args:
        constants: of the float network, by name.
        grid: of the layer's weight.
        overwrite: whether the residual may be written over.
    """
    weight = quantize(constants[step.weight], grid).to(torch.int8).contiguous()  # qlinear_prepack assumes it
    bias = None if step.bias is None else constants[step.bias].clone()
    scales = grid.scale.reshape(-1)
    if isinstance(step.operation, Linear):
        return _linear_layer(step, weight, scales, bias)
    source = Placed.of(step.x.grid)
    target = None if step.out.grid is None else Placed.of(step.out.grid)
    limits = (0, TOP) if step.out.grid is None else Placed.of(step.out.grid).bounds(step.out.grid, step.limits)
    operation, weight = direct_form(step.operation, weight)
    pad, padding = _padding(step.operation, operation, weight, source.zero)
    weights = ConvolutionWeights(
        weight, scales, bias, list(operation.stride), padding, list(operation.dilation), operation.groups
    )
    if step.residual is None:
        run = convolution(weights, source, target, limits)
        return lambda u: run(pad(u))
    unfused = _layer_then_sum(convolution(weights, source, None, limits), step)
    if weights.dims != 2:
        return lambda u, residual: unfused(pad(u), residual)
    assert target is not None
    fused = convolution_onto(weights, source, Placed.of(step.residual.grid), target, limits)
    shape = step.shape[1:]

    def with_residual(u: Tensor, residual: Tensor) -> Tensor:
        if residual.shape[1:] != shape or len(residual) != len(u):  # it is broadcast
            return unfused(pad(u), residual)  # type: ignore[no-any-return]
        accumulator = residual if overwrite else residual.clone()
        return fused(pad(u), accumulator.contiguous(memory_format=torch.channels_last))  # type: ignore[no-any-return]

    return with_residual


def _linear_layer(step: Layer, codes: Tensor, scales: Tensor, bias: Tensor | None) -> Kernel:
    source = Placed.of(step.x.grid)
    target = None if step.out.grid is None or step.residual is not None else Placed.of(step.out.grid)
    limits = (0, TOP) if step.out.grid is None or target is None else target.bounds(step.out.grid, step.limits)
    weights = (torch.ops.onednn.qlinear_prepack(codes, None), scales, torch.zeros(len(scales), dtype=torch.int32), bias)
    kernel, writes = torch.ops.onednn.qlinear_pointwise.default, (*written(target), *post_op_of(target, limits), "")

    def linear(u: Tensor) -> Tensor:
        return kernel(u.contiguous(), source.scale, source.zero, *weights, *writes)  # type: ignore[no-any-return]

    return linear if step.residual is None else _layer_then_sum(linear, step)


def _layer_then_sum(layer: Kernel, step: Layer) -> Kernel:
    """A layer that leaves its sums in float, and the residual added there."""
    assert step.residual is not None
    assert step.out.grid is not None
    residual_at, target = Placed.of(step.residual.grid), Placed.of(step.out.grid)
    lowest, highest = target.bounds(step.out.grid, step.limits)
    return lambda u, residual: target.put(layer(u) + residual_at.take(residual)).clamp_(lowest, highest)


def _padding(
    own: Convolution, direct: Convolution, weight: Tensor, zero: int
) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """What is padded before the kernel, and what by it: zeros, as many on either side."""
    spans = [d * (k - 1) + 1 for d, k in zip(direct.dilation, weight.shape[2:], strict=True)]
    # Where a whole window lies in the padding, oneDNN's kernels leave the zero-point uncorrected.
    inside = all(
        before == after and 0 <= before < span for (before, after), span in zip(direct.padding, spans, strict=True)
    )
    nothing, around = [0] * len(spans), padding_of_torch(direct.padding)
    spread = spread_out(own, zero)
    if inside:
        return spread, [before for before, _ in direct.padding]
    return lambda u: F.pad(spread(u), around, value=zero), nothing
