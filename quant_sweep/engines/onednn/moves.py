"""Operations as the float network has them, on whatever a value is: codes that only move, or float in between.

torch's own operations do, but for max-pooling of codes and for `view`, which channels-last tensors do not have.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quant_sweep.engines.lowering import Move

Kernel = Callable[..., Any]  # the values of a step's inputs to that of its output

# torch's own max-pooling has no uint8 kernels, or ones that take images of at most 255 pixels.
_OTHER_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool3d, nn.AdaptiveMaxPool2d)
_OTHER_MAX_POOL_FUNCTIONS = {F.max_pool1d, F.adaptive_max_pool2d}


def node_kernel(node: fx.Node, reads: Sequence[fx.Node], modules: Mapping[str, nn.Module]) -> Kernel:
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


def move_kernel(step: Move, modules: Mapping[str, nn.Module]) -> Kernel:
    """What selects, moves or compares codes."""
    node = step.node
    if node.op == "call_method" and node.target == "contiguous":
        return lambda u, *_: u  # codes stay channels last
    module = modules[str(node.target)] if node.op == "call_module" else None
    if isinstance(module, nn.MaxPool2d):
        geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
        return lambda u: _max_pool2d(u, *geometry)
    if node.target is F.max_pool2d:
        return _bound(_max_pool2d, node, tuple(step.reads))
    kernel = node_kernel(node, tuple(step.reads), modules)
    if isinstance(module, _OTHER_MAX_POOLS) or node.target in _OTHER_MAX_POOL_FUNCTIONS:
        return lambda u, *rest: kernel(u.to(torch.float32), *rest).to(torch.uint8)
    return kernel


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


def everywhere(function: Callable[[Tensor], Tensor]) -> Kernel:
    """`function` of a tensor, or of each of a tuple of them."""
    return lambda x: tuple(map(function, x)) if isinstance(x, tuple | list) else function(x)
