"""From a model to a graph that may be rewritten: torch.fx, evaluation mode, no in-place operations."""

from __future__ import annotations

import copy
import inspect
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn
from torchvision.ops import stochastic_depth

from quant_sweep.errors import InputError

_ADVICE = (
    "torch.fx follows no control flow that depends on tensor values: rewrite this forward, "
    "or move the offending lines into a function marked with torch.fx.wrap"
)
_TRAINING_ONLY = (nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout)
_TRAINING_ONLY_FUNCTIONS = (F.dropout, F.dropout2d, stochastic_depth)
_OUT_OF_PLACE: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    torch.relu_: torch.relu,
}


def trace(model: nn.Module) -> fx.GraphModule:
    """Trace a copy of `model` in evaluation mode.

    The copy has no in-place operations, so that a tensor keeps its value for everyone who reads it, and nothing that
    only acts in training (dropout, stochastic depth).

    Raises:
        InputError: the model cannot be traced (the message names the module), or takes more than one input.
    """
    root = copy.deepcopy(model).eval()
    try:
        graph = _Tracer().trace(root)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"model={type(model).__name__}: cannot be traced: {_one_line(error)}; {_ADVICE}") from error
    traced = fx.GraphModule(root, graph)
    inputs = [node for node in graph.nodes if node.op == "placeholder" and node.users]
    if len(inputs) != 1:
        raise InputError(f"model={type(model).__name__}: has {len(inputs)} inputs; one batch of images is expected")
    _remove_identities(traced)  # first: an identity returns its very input, which in-place operations overwrite
    remove_in_place(traced)
    return traced


class _Proxy(fx.Proxy):
    """Records `x += y` as the in-place operation that it is; of an fx.Proxy Python would make x = x + y, and another
    name of x would keep the old value."""

    def _record(self, function: Callable[..., Any], other: Any) -> Any:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    def __iadd__(self, other: Any) -> Any:
        return self._record(operator.iadd, other)

    def __isub__(self, other: Any) -> Any:
        return self._record(operator.isub, other)

    def __imul__(self, other: Any) -> Any:
        return self._record(operator.imul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._record(operator.itruediv, other)


class _Tracer(fx.Tracer):
    """torch.fx's tracer, with the module's name in the error."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        return _Proxy(node, self)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        try:
            return super().call_module(m, forward, args, kwargs)
        except InputError:
            raise
        except Exception as error:
            name = f"{self.path_of_module(m)} ({type(m).__name__})"
            raise InputError(f"model: module {name} cannot be traced: {_one_line(error)}; {_ADVICE}") from error


def _one_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__


def remove_in_place(traced: fx.GraphModule) -> None:
    """Replace in-place operations by their pure forms, with the same result.

    What reads the overwritten tensor after the operation is made to read the operation's output instead. Leaves out
    in-place writes through views of a tensor.
    """
    order = {node: position for position, node in enumerate(traced.graph.nodes)}
    for node in list(traced.graph.nodes):
        if not _make_out_of_place(traced, node):
            continue
        overwritten = node.all_input_nodes[0]
        for user in list(overwritten.users):
            if order[user] > order[node]:
                user.replace_input_with(overwritten, node)
    for module in traced.modules():  # last: a module may be called at several nodes
        if getattr(module, "inplace", False) is True:
            setattr(module, "inplace", False)  # noqa: B010  (mypy reads attributes of a Module as tensors)
    traced.graph.lint()
    traced.recompile()


def _make_out_of_place(traced: fx.GraphModule, node: fx.Node) -> bool:
    """Whether `node` was an in-place operation; afterwards it is none, but for the flag of a module."""
    if node.op == "call_module":
        return getattr(traced.get_submodule(str(node.target)), "inplace", False) is True
    if node.op == "call_function":
        if node.target in _OUT_OF_PLACE and isinstance(node.args[0], fx.Node):
            node.target = _OUT_OF_PLACE[node.target]
            return True
        if node.kwargs.get("inplace") is True:
            node.kwargs = {**node.kwargs, "inplace": False}
            return True
    elif node.op == "call_method":
        name = str(node.target)
        pure = name.removesuffix("_")
        if name.endswith("_") and not name.endswith("__") and hasattr(torch.Tensor, pure):
            node.target = pure
            return True
    return False


def _remove_identities(traced: fx.GraphModule) -> None:
    """Take out what passes its input on unchanged in evaluation mode."""
    modules = dict(traced.named_modules())
    for node in list(traced.graph.nodes):
        if node.op == "call_module":
            identity = isinstance(modules[str(node.target)], _TRAINING_ONLY)
        else:
            identity = node.target in _TRAINING_ONLY_FUNCTIONS and not _argument(node, "training")
        if identity:
            node.replace_all_uses_with(node.all_input_nodes[0])
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()


def _argument(node: fx.Node, name: str) -> Any:
    """The value that `name` has in the call of a function, its default included."""
    bound = inspect.signature(node.target).bind(*node.args, **node.kwargs)  # type: ignore[arg-type]
    bound.apply_defaults()
    return bound.arguments[name]
