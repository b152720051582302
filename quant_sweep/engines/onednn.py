"""Steps of a lowered network on oneDNN's integer kernels, through `torch.ops.onednn`.

Codes live in uint8, channels last, shifted so that the lowest code of a grid, signed or not, is 0 or 1. What uint8 does
not clip by itself is clipped by a post-op in real units (`relu`, `hardtanh`), or, where there is no hardtanh, by a
clamp of the codes. The kernels round r / scale + zero_point in float32, half to even. A small zero-point keeps the
digits after the point (at 249 and -0.499998 it lost a channel of ties), an even one the direction of exact ties.

A function of one code is a table; a change of grid or a clamp, and the sum of two tensors, also run as a depthwise
1x1 convolution with weight 1, which is three times faster than the table, *if* it gives the very codes of the float
formula for every possible input, which is tried when the network is built.

Leaves out: weights with a zero-point, per-channel activations, accumulators that could overflow 32 bits.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quant_sweep.affine import quantize
from quant_sweep.engines.lowering import (
    Average,
    Compute,
    Dequantize,
    Layer,
    Lookup,
    Move,
    Pad,
    Quantize,
    Step,
    Sum,
    bounds,
    same_grid,
)
from quant_sweep.spec import QParams

Kernel = Callable[..., Any]  # the values of a step's inputs to that of its output

_TOP = 255
_BLOCK = 64  # channels of the depthwise convolution that stands for an elementwise operation
# torch's own max-pooling has no uint8 kernels, or ones that take images of at most 255 pixels.
_OTHER_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool3d, nn.AdaptiveMaxPool2d)
_OTHER_MAX_POOL_FUNCTIONS = {F.max_pool1d, F.adaptive_max_pool2d}


@final
@dataclass(frozen=True)
class Placed:
    """Where a grid lies in uint8: r = scale * (u - zero), lowest <= u <= highest, u = code + offset."""

    scale: float
    zero: int
    lowest: int
    highest: int
    offset: int

    @classmethod
    def of(cls, grid: QParams | None) -> Placed:
        assert grid is not None
        spec, zero_point = grid.spec, int(grid.zero_point)
        odd = (zero_point - spec.qmin) % 2
        lowest = odd if spec.steps < _TOP else 0
        offset = lowest - spec.qmin
        return cls(float(grid.scale), zero_point + offset, lowest, lowest + spec.steps, offset)

    @property
    def codes(self) -> slice:
        """The stored codes that occur, of all of uint8."""
        return slice(self.lowest, self.highest + 1)

    def bounds(self, grid: QParams, limits: tuple[float, float]) -> tuple[int, int]:
        """Lowest and highest stored code of values cut off at `limits`."""
        lowest, highest = bounds(grid, limits)
        return lowest + self.offset, highest + self.offset

    def put(self, x: Tensor) -> Tensor:
        """Stored codes of float values, rounded as `affine.quantize` rounds; uint8, channels last.

        Raises:
            FloatingPointError: x holds NaN, which no code can stand for.
        """
        u = _channels_last(x).div(self.scale).round_().add_(self.zero).clamp_(self.lowest, self.highest)
        if bool(u.sum().isnan()):
            raise FloatingPointError("engine=int8: a tensor that is to be quantized holds NaN")
        return u.to(torch.uint8)

    def take(self, u: Tensor) -> Tensor:
        """Real values of stored codes, float32; the same bits as `affine.dequantize`."""
        return u.to(torch.float32).sub_(self.zero).mul_(self.scale)


def kernel_of(step: Step, modules: Mapping[str, nn.Module], qparams: Mapping[str, QParams], overwrite: bool) -> Kernel:
    """What computes `step`; weights are packed here.

    Args:
        step: of a lowered network whose grids have at most 8 bits.
        modules: of the network, by path.
        qparams: by tensor name, for the weights.
        overwrite: whether the second input of a sum, or the residual of a layer, may be written over.
    """
    match step:
        case Quantize():
            return Placed.of(step.out.grid).put
        case Dequantize():
            return _everywhere(Placed.of(step.x.grid).take)
        case Pad():
            padding, zero = list(step.padding), Placed.of(step.x.grid).zero
            return lambda u: F.pad(u, padding, value=zero)
        case Lookup():
            return _lookup(step, modules)
        case Average():
            return _average(step, modules)
        case Sum():
            return _sum(step, overwrite)
        case Layer():
            return _layer(step, modules[step.module], qparams[f"{step.module}.weight"], overwrite)
        case Move():
            return _move(step, modules)
        case Compute():
            return _call(step.node, tuple(step.reads), modules)
        case _:
            raise TypeError(f"no kernel for {type(step).__name__}")


# -- operations of the float network --


def _call(node: fx.Node, reads: Sequence[fx.Node], modules: Mapping[str, nn.Module]) -> Kernel:
    """The operation of a graph node; `view` as `reshape`, for tensors here are channels last."""
    function: Callable[..., Any]
    if node.op == "call_module":
        function = copy.deepcopy(modules[str(node.target)])
    elif node.op == "call_method":
        method = str(node.target)
        dtype = any(isinstance(arg, torch.dtype) for arg in node.args)
        function = _method("reshape" if method == "view" and not dtype else method)
    elif node.op == "get_attr":
        constant = copy.deepcopy(operator.attrgetter(str(node.target))(modules[""]))
        return lambda: constant
    elif node.op == "output":
        function = _identity
    else:
        assert callable(node.target)
        function = node.target
    return _bound(function, node, reads)


def _bound(function: Callable[..., Any], node: fx.Node, reads: Sequence[fx.Node]) -> Kernel:
    """`function` with the arguments of `node`, of the values of the nodes in `reads`."""

    def call(*values: Any) -> Any:
        known = dict(zip(reads, values, strict=True))
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), known.__getitem__)
        return function(*args, **kwargs)

    return call


def _method(name: str) -> Callable[..., Any]:
    return lambda x, *args, **kwargs: getattr(x, name)(*args, **kwargs)


def _identity(x: Any) -> Any:
    return x


def _move(step: Move, modules: Mapping[str, nn.Module]) -> Kernel:
    node = step.node
    if node.op == "call_method" and node.target == "contiguous":
        return lambda u, *_: u  # codes stay channels last
    module = modules[str(node.target)] if node.op == "call_module" else None
    if isinstance(module, nn.MaxPool2d):
        geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
        return lambda u: _max_pool2d(u, *geometry)
    if node.target is F.max_pool2d:
        return _bound(_max_pool2d, node, tuple(step.reads))
    call = _call(node, tuple(step.reads), modules)
    if isinstance(module, _OTHER_MAX_POOLS) or node.target in _OTHER_MAX_POOL_FUNCTIONS:
        return lambda u, *rest: call(u.to(torch.float32), *rest).to(torch.uint8)
    return call


def _max_pool2d(
    input: Tensor,  # the names of torch.nn.functional's arguments
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,  # lowering leaves out where it is asked for
) -> Tensor:
    """Max-pooling of codes, ten times faster than through float."""
    assert not return_indices
    sizes = [_pair(size) for size in (kernel_size, stride or kernel_size, padding, dilation)]
    return torch.ops.quantized.max_pool2d.default(input, *sizes, ceil_mode)  # type: ignore[no-any-return]


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size) * (2 // len(size))


def _everywhere(function: Callable[[Tensor], Tensor]) -> Kernel:
    """`function` of a tensor, or of each of a tuple of them."""
    return lambda x: tuple(map(function, x)) if isinstance(x, tuple | list) else function(x)


def _average(step: Average, modules: Mapping[str, nn.Module]) -> Kernel:
    source, target = Placed.of(step.x.grid), Placed.of(step.out.grid)
    average = _call(step.node, (step.node.all_input_nodes[0],), modules)
    # Whole numbers below 2**24 sum exactly in float32, in any order.
    return lambda u: target.put(average(u.to(torch.float32).sub_(source.zero)).mul(source.scale))


# -- elementwise operations --


def _lookup(step: Lookup, modules: Mapping[str, nn.Module]) -> Kernel:
    assert step.out.grid is not None
    source, target = Placed.of(step.x.grid), Placed.of(step.out.grid)
    if step.limits is not None and same_grid(step.x.grid, step.out.grid):
        lowest, highest = target.bounds(step.out.grid, step.limits)
        return lambda u: u.clamp(lowest, highest)
    codes = torch.arange(_TOP + 1, dtype=torch.uint8)
    real = source.take(codes)
    if step.node is not None:
        real = _call(step.node, (step.node.all_input_nodes[0],), modules)(real)
    table = target.put(real)
    if step.limits is not None:
        convolve = _depthwise(source, None, target, target.bounds(step.out.grid, step.limits))
        if torch.equal(convolve(codes)[source.codes], table[source.codes]):
            return lambda u: convolve(u) if u.numel() % _BLOCK == 0 else _gather(table, u)
    return lambda u: _gather(table, u)


def _gather(table: Tensor, u: Tensor) -> Tensor:
    dense = _storage_order(u)
    return _from_storage_order(table.index_select(0, dense.reshape(-1).int()).view(dense.shape))


def _sum(step: Sum, overwrite: bool) -> Kernel:
    assert step.out.grid is not None
    first, second, target = (Placed.of(grid) for grid in (step.x.grid, step.y.grid, step.out.grid))
    lowest, highest = target.bounds(step.out.grid, step.limits)

    def in_float(u: Tensor, v: Tensor) -> Tensor:
        return target.put(first.take(u) + second.take(v)).clamp_(lowest, highest)

    convolve = _depthwise(first, second, target, (lowest, highest))
    codes = torch.arange(_TOP + 1, dtype=torch.uint8)
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
    one, zero = torch.ones(1), torch.zeros(1, dtype=torch.int32)
    weight = torch.ones(_BLOCK, 1, 1, 1, dtype=torch.int8)
    geometry: tuple[Any, ...] = ([1, 1], [0, 0], [1, 1], _BLOCK)
    packed = torch.ops.onednn.qconv_prepack(weight, one, source.scale, source.zero, *geometry, None)
    run = _convolution(2, source, (packed, one, zero, None, *geometry), accumulator, target, limits)

    def convolve(*operands: Tensor) -> Tensor:
        dense = [_storage_order(u) for u in operands]
        rows = [u.reshape(1, -1, 1, _BLOCK).permute(0, 3, 1, 2) for u in dense]  # (1, 64, n / 64, 1), channels last
        return _from_storage_order(run(*rows).permute(0, 2, 3, 1).reshape(dense[0].shape))

    return convolve


# -- layers --


def _layer(step: Layer, module: nn.Module, grid: QParams, overwrite: bool) -> Kernel:
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    source = Placed.of(step.x.grid)
    target = None if step.out.grid is None else Placed.of(step.out.grid)
    limits = (0, _TOP) if step.out.grid is None else Placed.of(step.out.grid).bounds(step.out.grid, step.limits)
    weight = quantize(module.weight.detach(), grid).to(torch.int8)
    scales = grid.scale.reshape(-1)
    bias = None if module.bias is None else module.bias.detach().clone()
    packed_with = (scales, torch.zeros(len(scales), dtype=torch.int32), bias)
    if isinstance(module, nn.Linear):
        packed = torch.ops.onednn.qlinear_prepack(weight, None)
        linear = _linear(source, (packed, *packed_with))
        if step.residual is None:
            return linear(target, limits)
        return _layer_then_sum(linear(None, limits), step)
    pad, padding = _padding(module, source.zero)
    geometry = (list(module.stride), padding, list(module.dilation), module.groups)
    packed = torch.ops.onednn.qconv_prepack(weight, scales, source.scale, source.zero, *geometry, None)
    weights = (packed, *packed_with, *geometry)
    dims = module.weight.dim() - 2
    if step.residual is None:
        run = _convolution(dims, source, weights, None, target, limits)
        return lambda u: run(pad(u))
    unfused = _layer_then_sum(_convolution(dims, source, weights, None, None, limits), step)
    if dims != 2:
        return lambda u, residual: unfused(pad(u), residual)
    fused = _convolution(dims, source, weights, Placed.of(step.residual.grid), target, limits)
    out_shape = _shape_of_output(module, padding)

    def with_residual(u: Tensor, residual: Tensor) -> Any:
        u = pad(u)
        if residual.shape != out_shape(u):  # it is broadcast
            return unfused(u, residual)
        accumulator = residual if overwrite else residual.clone()
        return fused(u, accumulator.contiguous(memory_format=torch.channels_last))

    return with_residual


def _layer_then_sum(layer: Kernel, step: Layer) -> Kernel:
    """A layer that leaves its sums in float, and the residual added there."""
    assert step.residual is not None
    assert step.out.grid is not None
    residual_at, target = Placed.of(step.residual.grid), Placed.of(step.out.grid)
    lowest, highest = target.bounds(step.out.grid, step.limits)
    return lambda u, residual: target.put(layer(u) + residual_at.take(residual)).clamp_(lowest, highest)


def _padding(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, zero: int) -> tuple[Callable[[Tensor], Tensor], list[int]]:
    """What is padded before the kernel, and what by it: zeros, as many on either side."""
    around = list(module._reversed_padding_repeated_twice)  # last axis first: (left, right, top, bottom, ...)
    spans = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    # Where a whole window lies in the padding, oneDNN's kernels leave the zero-point uncorrected.
    inside = all(size < span for size, span in zip(around[::2][::-1], spans, strict=True))
    if module.padding_mode == "zeros" and around[::2] == around[1::2] and inside:
        return _identity, around[::2][::-1]
    nothing = [0] * (len(around) // 2)
    if module.padding_mode == "zeros":
        return lambda u: F.pad(u, around, value=zero), nothing
    mode = module.padding_mode
    return lambda u: F.pad(u, around, mode=mode), nothing


def _shape_of_output(
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d, padding: list[int]
) -> Callable[[Tensor], tuple[int, ...]]:
    spans = [d * (k - 1) + 1 for d, k in zip(module.dilation, module.kernel_size, strict=True)]

    def shape(u: Tensor) -> tuple[int, ...]:
        sides = zip(u.shape[2:], padding, spans, module.stride, strict=True)
        return (u.shape[0], module.out_channels, *((size + 2 * p - span) // s + 1 for size, p, span, s in sides))

    return shape


def _convolution(
    dims: int,
    source: Placed,
    weights: tuple[Any, ...],
    accumulator: Placed | None,
    target: Placed | None,
    limits: tuple[int, int],
) -> Kernel:
    """oneDNN's convolution: codes in, codes of `target` between `limits` out; without a target float sums.

    With an accumulator the kernel takes a second tensor, on that grid, and writes over it.
    """
    of_input = (source.scale, source.zero)
    if accumulator is None:
        kernel = torch.ops.onednn.qconv1d_pointwise if dims == 1 else torch.ops.onednn.qconv_pointwise
        if dims != 2 and target is not None:  # torch's binding has no hardtanh there, and none at all in 3-d
            bare: tuple[Any, ...] = (*_written(target), "none", [], "")
            return lambda u: kernel.default(u, *of_input, *weights, *bare).clamp_(*limits)
        last = (*_written(target), *_post_op(target, limits), "")
        return lambda u: kernel.default(u, *of_input, *weights, *last)
    assert target is not None
    rectified = limits[0] == target.zero
    binary = torch.ops.onednn.qconv2d_pointwise.binary
    unary = "relu" if rectified else "none"
    onto: tuple[Any, ...] = (*_written(target), accumulator.scale, accumulator.zero, "sum", 1.0, unary, [], "")
    clipped = limits[1] == _TOP and (rectified or limits[0] == 0)

    def add(u: Tensor, v: Tensor) -> Tensor:
        out = binary(u, *of_input, weights[0], *weights[1:3], v, *weights[3:], *onto)
        return out if clipped else out.clamp_(*limits)  # type: ignore[no-any-return]

    return add


def _linear(source: Placed, weights: tuple[Any, ...]) -> Callable[[Placed | None, tuple[int, int]], Kernel]:
    kernel, of_input = torch.ops.onednn.qlinear_pointwise.default, (source.scale, source.zero)

    def to(target: Placed | None, limits: tuple[int, int]) -> Kernel:
        last = (*_written(target), *_post_op(target, limits), "")
        return lambda u: kernel(u, *of_input, *weights, *last)

    return to


def _written(target: Placed | None) -> tuple[float, int, torch.dtype]:
    return (1.0, 0, torch.float32) if target is None else (target.scale, target.zero, torch.uint8)


def _post_op(target: Placed | None, limits: tuple[int, int]) -> tuple[str, list[float]]:
    """What cuts off what the ends of uint8 do not."""
    if target is None or limits == (0, _TOP):
        return "none", []
    if limits == (target.zero, _TOP):
        return "relu", []
    return "hardtanh", [target.scale * (code - target.zero) for code in limits]


# -- memory --


def _channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x.contiguous()


def _storage_order(u: Tensor) -> Tensor:
    """Contiguous; (n, c, h, w) as (n, h, w, c)."""
    return _channels_last(u).permute(0, 2, 3, 1) if u.dim() == 4 else u.contiguous()


def _from_storage_order(u: Tensor) -> Tensor:
    return u.permute(0, 3, 1, 2) if u.dim() == 4 else u
