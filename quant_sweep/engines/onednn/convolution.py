"""oneDNN's convolution of codes, through `torch.ops.onednn`.

What uint8 does not clip by itself is clipped by a post-op in real units (`relu`, `hardtanh`), or, where there is no
hardtanh, by a clamp of the codes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch
from torch import Tensor

from quant_sweep.engines.lowering import Kernel
from quant_sweep.engines.onednn.placed import TOP, Placed


@final
@dataclass
class ConvolutionWeights:
    """The weights of a convolution, and how they are laid over images.

    Attributes:
        codes: int8 (out, in / groups, *kernel).
        scales: real units per code, float32 (out,) or (1,).
        bias: float32 (out,), or None.
        stride, padding, dilation: one number per axis of the images.
    """

    codes: Tensor
    scales: Tensor
    bias: Tensor | None
    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    _packed: Tensor | None = field(default=None, init=False)
    _packed_for: tuple[int, ...] = field(default=(), init=False)

    @property
    def dims(self) -> int:
        """Axes of the images."""
        return self.codes.dim() - 2

    @property
    def geometry(self) -> tuple[list[int], list[int], list[int], int]:
        """As the kernels take it."""
        return self.stride, self.padding, self.dilation, self.groups

    def packed(self, u: Tensor, source: Placed) -> Tensor:
        """In the layout that the kernel wants for images of this size.

        A kernel that is given another layout reorders all weights in every call: for the last layers of a ResNet-50
        that took a hundred times as long as the arithmetic of one image.
        """
        if self._packed is None or u.shape[2:] != self._packed_for:
            pack = torch.ops.onednn.qconv_prepack
            shape = list(u.shape)
            self._packed = pack(self.codes, self.scales, source.scale, source.zero, *self.geometry, shape)
            self._packed_for = u.shape[2:]
        assert self._packed is not None
        return self._packed


def convolution(weights: ConvolutionWeights, source: Placed, target: Placed | None, limits: tuple[int, int]) -> Kernel:
    """Codes in; codes of `target` between `limits` out, or without a target float sums."""
    kernel = torch.ops.onednn.qconv1d_pointwise if weights.dims == 1 else torch.ops.onednn.qconv_pointwise
    zeros = torch.zeros(len(weights.scales), dtype=torch.int32)
    meets = (weights.scales, zeros, weights.bias, *weights.geometry)
    # torch's binding has no hardtanh in 1-d, and no post-op at all in 3-d.
    has_post_ops = weights.dims == 2 or target is None
    post_op = post_op_of(target, limits) if has_post_ops else ("none", [])
    writes: tuple[Any, ...] = (*written(target), *post_op, "")

    def convolve(u: Tensor) -> Tensor:
        out = kernel.default(u, source.scale, source.zero, weights.packed(u, source), *meets, *writes)
        return out if has_post_ops else out.clamp_(*limits)  # type: ignore[no-any-return]

    return convolve


def convolution_onto(
    weights: ConvolutionWeights, source: Placed, accumulator: Placed, target: Placed, limits: tuple[int, int]
) -> Kernel:
    """(u, v) -> convolution(u) + v, images of two axes; v lies on the grid `accumulator` and is written over."""
    rectified = limits[0] == target.zero
    clipped = limits[1] == TOP and (rectified or limits[0] == 0)
    zeros = torch.zeros(len(weights.scales), dtype=torch.int32)
    unary = "relu" if rectified else "none"
    onto: tuple[Any, ...] = (*written(target), accumulator.scale, accumulator.zero, "sum", 1.0, unary, [], "")
    kernel, rest = torch.ops.onednn.qconv2d_pointwise.binary, (weights.bias, *weights.geometry, *onto)

    def convolve(u: Tensor, v: Tensor) -> Tensor:
        packed = weights.packed(u, source)
        out = kernel(u, source.scale, source.zero, packed, weights.scales, zeros, v, *rest)
        return out if clipped else out.clamp_(*limits)  # type: ignore[no-any-return]

    return convolve


def written(target: Placed | None) -> tuple[float, int, torch.dtype]:
    """Scale, zero-point and type of what a kernel writes."""
    return (1.0, 0, torch.float32) if target is None else (target.scale, target.zero, torch.uint8)


def post_op_of(target: Placed | None, limits: tuple[int, int]) -> tuple[str, list[float]]:
    """What cuts off what the ends of uint8 do not."""
    if target is None or limits == (0, TOP):
        return "none", []
    if limits == (target.zero, TOP):
        return "relu", []
    return "hardtanh", [target.scale * (code - target.zero) for code in limits]
