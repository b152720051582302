"""A program without in-place operations and without regions, which functional graphs are made of.

PyTorch's own functionalization is right for every alias, and traces the whole program a second time for that, which
costs two to three times the first. Where each overwritten tensor is plainly nobody's view and has no views, renaming
is enough: who reads the tensor after the operation reads the operation's result.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence

import torch
from torch import fx
from torch.export import ExportedProgram

from quant_sweep.graph.aten import base_name, same_as_input

# Operators whose result has memory of its own, whatever the arguments.
_OWN_MEMORY = {
    "conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "linear", "batch_norm",
    "relu", "relu6", "hardtanh", "clamp", "clamp_min", "clamp_max", "silu", "hardswish", "hardsigmoid", "sigmoid",
    "tanh", "gelu", "elu", "leaky_relu", "mish", "add", "sub", "mul", "div", "cat", "matmul", "mean", "max_pool2d",
    "avg_pool2d", "adaptive_avg_pool2d", "layer_norm", "softmax",
}  # fmt: skip


# Regions that change how gradients and memory are dealt with, or in how many bits floats are computed; not what is.
_REGIONS = {"wrap_with_set_grad_enabled", "wrap_with_autocast", "tag_activation_checkpoint"}


def inlined(program: ExportedProgram) -> ExportedProgram:
    """The very program given, with the insides of its `torch.no_grad()`, `torch.autocast()` and `checkpoint()` regions
    in the place of calls."""
    _inline_regions(program.graph_module)
    return program


def _inline_regions(module: fx.GraphModule) -> None:
    graph = module.graph
    for node in [node for node in graph.nodes if base_name(node) in _REGIONS]:
        position, function = next(
            (i, arg) for i, arg in enumerate(node.args) if isinstance(arg, fx.Node) and arg.op == "get_attr"
        )
        region = module.get_submodule(str(function.target))
        assert isinstance(region, fx.GraphModule)
        _inline_regions(region)
        given = [inside for inside in region.graph.nodes if inside.op == "placeholder"]
        with graph.inserting_before(node):
            made = graph.graph_copy(region.graph, dict(zip(given, node.args[position + 1 :], strict=True)))
        _read_instead(node, made)
        graph.erase_node(node)
        if not function.users:
            graph.erase_node(function)
    module.recompile()


def _read_instead(call: fx.Node, made: object) -> None:
    """Let those who read the result of a call read what its inside made."""
    if isinstance(made, fx.Node):
        call.replace_all_uses_with(made)
        return
    assert isinstance(made, Sequence)
    for user in list(call.users):
        index = user.args[1]
        assert user.target is operator.getitem
        assert isinstance(index, int)
        user.replace_all_uses_with(made[index])
        user.graph.erase_node(user)


def functional(program: ExportedProgram) -> ExportedProgram:
    """The program without in-place operations; it may be the very program given, changed."""
    writes = [node for node in program.graph.nodes if _is_in_place(node) and same_as_input(node) is None]
    order = {node: position for position, node in enumerate(program.graph.nodes)}
    if not all(_overwrites_own_memory(node) for node in writes):
        decomposed: ExportedProgram = program.run_decompositions({})
        return decomposed
    for node in writes:
        overwritten = node.args[0]
        for user in [user for user in overwritten.users if order[user] > order[node]]:
            user.replace_input_with(overwritten, node)
    return program


def _is_in_place(node: fx.Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return node.op == "call_function" and schema is not None and bool(schema.is_mutable)


def _overwrites_own_memory(node: fx.Node) -> bool:
    overwritten = node.args[0]
    if base_name(node) not in _OWN_MEMORY or not isinstance(overwritten, fx.Node):
        return False
    by_name = [arg for arg in node.target._schema.arguments if arg.alias_info is not None]  # type: ignore[union-attr]
    one_write = len(by_name) == 1 and by_name[0].name in {"self", "input"}
    return one_write and all(_has_own_memory(other) for other in (overwritten, *overwritten.users))


def _has_own_memory(node: fx.Node) -> bool:
    if node.op == "output" or isinstance(node.meta.get("val"), int | torch.SymInt):
        return True
    return node.op == "call_function" and base_name(node) in _OWN_MEMORY
