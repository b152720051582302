"""One mechanism for everything that looks at, or changes, the tensors at the quantization points."""

from __future__ import annotations

import copy
from collections.abc import Mapping

from torch import fx, nn

from quant_sweep.graph.points import QuantGraph


def insert_at_points(graph: QuantGraph, modules: Mapping[str, nn.Module]) -> fx.GraphModule:
    """A copy of the network in which a module stands behind each activation point.

    Args:
        graph: the network; it is not changed, and the copy shares no weights with it.
        modules: by the point's name; each maps a tensor to a tensor of its shape, and only the point's readers see
            its output. Points without a module are left alone.

    Returns:
        The new network. The module of point `a.b` is at `points.a_b`.
    """
    result = copy.deepcopy(graph.module)
    result.add_module("points", nn.Module())
    nodes = {node.name: node for node in result.graph.nodes}
    for point in graph.activations:
        if point.name not in modules:
            continue
        path = f"points.{point.name.replace('.', '_')}"
        result.add_submodule(path, modules[point.name])
        made = nodes[point.node]
        with result.graph.inserting_after(made):
            inserted = result.graph.call_module(path, (made,))
        for reader in point.readers:
            nodes[reader].replace_input_with(made, inserted)
    result.graph.lint()
    result.recompile()
    return result
