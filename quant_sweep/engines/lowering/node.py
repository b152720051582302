"""The operation of a graph node, as the float network has it, on whatever its inputs are: floats, codes or sizes."""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn

Kernel = Callable[..., Any]  # the values of a step's inputs to that of its output


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
    return bound(function, node, reads)


def bound(function: Callable[..., Any], node: fx.Node, reads: Sequence[fx.Node]) -> Kernel:
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


def everywhere(function: Callable[[Tensor], Tensor]) -> Kernel:
    """`function` of a tensor, or of each of a tuple of them."""
    return lambda x: tuple(map(function, x)) if isinstance(x, tuple | list) else function(x)
