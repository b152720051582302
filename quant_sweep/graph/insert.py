"""One mechanism for all that looks at, or changes, the tensors at the quantization points; and one for weights."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch import fx, nn

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph.points import QuantGraph


def insert_at_points(graph: QuantGraph, modules: Mapping[str, nn.Module]) -> fx.GraphModule:
    """A copy of the network in which a module stands behind each activation point.

    Args:
        graph: the network; it is not changed, and the copy shares no weights with it.
        modules: by the point's name; each maps a tensor to a tensor of its shape, and only the point's readers see
            its output. Points without a module are left alone.

    Returns:
        The new network. The module of a point is at `quantization_points.<node of the point>`.
    """
    result = copy.deepcopy(graph.module)
    result.add_module("quantization_points", nn.Module())
    nodes = {node.name: node for node in result.graph.nodes}
    for point in graph.activations:
        if point.name not in modules:
            continue
        path = f"quantization_points.{point.node}"
        result.add_submodule(path, modules[point.name])
        made = nodes[point.node]
        with result.graph.inserting_after(made):
            inserted = result.graph.call_module(path, (made,))
        for reader in point.readers:
            nodes[reader].replace_input_with(made, inserted)
    result.graph.lint()
    result.recompile()
    return result


@torch.no_grad()
def put_weights_on_grid(network: nn.Module, graph: QuantGraph, qparams: Mapping[str, QParams]) -> None:
    """Replace the weights of `network`, a copy of the graph's, by the nearest values of their grids.

    Args:
        qparams: by tensor name; a weight without an entry stays as it is.
    """
    for point in graph.weights:
        if point.name in qparams:
            weight = network.get_parameter(point.name)
            weight.copy_(fake_quantize(weight, qparams[point.name].to(weight.device)))
