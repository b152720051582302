"""Folding of BatchNorm, and of what is written in its place, into the layer before it, or behind it.

In evaluation mode BN(y) = a * y + c per channel, with a = gamma / sqrt(variance + eps) and c = beta - a * mean, and a
convolution or linear layer is affine too: one layer can do both (Jacob et al. 2018, section 3.2).

    behind a layer   BN(W x + b) = (a W) x + (a b + c)       exact wherever BN's channels are the layer's outputs
    before a layer   W BN(x) + b = (W a) x + (W c + b)       exact wherever no zeros are padded in between

Frozen BatchNorm, written as products and sums per channel (`ChannelAffine`), and biases that are added by hand have a
and c as they are. What is decided is whether the channels are the same ones: by following their axis, never by sizes
that happen to agree.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.fusion import fuse_conv_bn_weights

from quant_sweep.graph.graph import Graph, Node, pruned
from quant_sweep.graph.operations import BatchNorm, ChannelAffine, Convolution, Linear, Move, Reshape


def fold_batch_norms(graph: Graph) -> Graph:
    """The graph with every BatchNorm, and whatever scales and shifts channels as one does, folded where that is exact.

    It stays where its layer's output has another reader, behind a concatenation or a sum, and between two
    activations. A layer that is called several times gets a weight for each call that a BatchNorm follows.
    """
    for fold in (_fold_into_layer_before, _fold_into_layer_behind):
        for node in graph.nodes:
            if isinstance(node.operation, BatchNorm | ChannelAffine):
                graph = fold(graph, graph.node[node.name]) or graph
    return graph


def _fold_into_layer_before(graph: Graph, norm: Node) -> Graph | None:
    source, axis = norm.inputs[0], channel_axis(norm)
    while source in graph.node and _is_only_read_once(graph, source):
        node = graph.node[source]
        if isinstance(node.operation, Convolution | Linear):
            if axis != output_axis(node):
                return None
            layer, constants = _with_constants(graph, node, *_folded(graph, node, norm))
            return _rebuilt(graph, {node.name: layer}, constants, {norm.name: norm.inputs[0]})
        moved = _axis_before(node, axis, graph)
        if moved is None:
            return None
        source, axis = node.inputs[0], moved
    return None


def _folded(graph: Graph, layer: Node, norm: Node) -> tuple[Tensor, Tensor]:
    """Weight and bias of a layer that does what stands behind it, too."""
    weight, bias = _weight_and_bias(graph, layer)
    if isinstance(norm.operation, BatchNorm):
        gamma, beta, mean, variance = (graph.constants[name] for name in norm.inputs[1:])
        folded = fuse_conv_bn_weights(weight, bias, mean, variance, norm.operation.eps, gamma, beta)
        return folded[0].detach(), folded[1].detach()
    scale, shift = _scale_and_shift(graph, norm)
    return weight * scale.reshape(-1, *[1] * (weight.dim() - 1)), bias * scale + shift


def _fold_into_layer_behind(graph: Graph, norm: Node) -> Graph | None:
    readers = graph.readers[norm.name]
    if len(readers) != 1 or norm.name in graph.outputs:
        return None
    (node,) = readers
    operation = node.operation
    if isinstance(operation, Convolution):
        if operation.transposed or any(size != 0 for side in operation.padding for size in side):
            return None
    elif not isinstance(operation, Linear):
        return None
    input_axis = 1 if isinstance(operation, Convolution) else len(norm.shape) - 1
    if node.inputs[0] != norm.name or channel_axis(norm) != input_axis:
        return None
    scale, shift = _scale_and_shift(graph, norm)
    weight, bias = _weight_and_bias(graph, node)
    by_input = weight.reshape(len(weight), weight.shape[1], -1)  # (out, in / groups, places)
    groups = operation.groups if isinstance(operation, Convolution) else 1
    of_output = [
        part.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1).reshape(len(weight), -1)
        for part in (scale, shift)
    ]
    scales, shifts = of_output  # (out, in / groups): of the channels that each output reads
    new_bias = bias + (by_input.sum(dim=2) * shifts).sum(dim=1)
    layer, constants = _with_constants(graph, node, (by_input * scales[:, :, None]).reshape(weight.shape), new_bias)
    layer = replace(layer, inputs=(norm.inputs[0], *layer.inputs[1:]))
    return _rebuilt(graph, {node.name: layer}, constants, {})


def channel_axis(norm: Node) -> int:
    """The axis whose channels a BatchNorm, or what is written in its place, tells apart."""
    return norm.operation.axis if isinstance(norm.operation, ChannelAffine) else 1


def output_axis(layer: Node) -> int:
    """The axis of a layer's output that counts its channels."""
    return len(layer.shape) - 1 if isinstance(layer.operation, Linear) else 1


def _axis_before(node: Node, axis: int, graph: Graph) -> int | None:
    """Which axis of what a node reads became its axis `axis`; None if none did by itself."""
    operation = node.operation
    if node.inputs[0] not in graph.node:
        return None
    shape = graph.node[node.inputs[0]].shape
    if isinstance(operation, Reshape):
        inside = math.prod(node.shape[axis + 1 :])
        candidates = (
            i for i in range(len(shape)) if math.prod(shape[i + 1 :]) == inside and shape[i] == node.shape[axis]
        )
        return next((i for i in candidates if shape[i] != 1), None)
    if isinstance(operation, Move):
        name = str(getattr(operation.call.function, "_schema", operation.call.function)).split("(")[0]
        args = operation.call.args
        if name.startswith("aten::transpose"):
            a, b = (int(arg) % len(shape) for arg in args[1:3])
            return {a: b, b: a}.get(axis, axis)
        if name.startswith("aten::permute"):
            return int(args[1][axis]) % len(shape)
    return None


def _is_only_read_once(graph: Graph, name: str) -> bool:
    return len(graph.readers[name]) == 1 and name not in graph.outputs


def _scale_and_shift(graph: Graph, norm: Node) -> tuple[Tensor, Tensor]:
    """a and c of the module's text, (channels,)."""
    if isinstance(norm.operation, ChannelAffine):
        scale, shift = (graph.constants[name] for name in norm.inputs[1:])
        return scale, shift
    assert isinstance(norm.operation, BatchNorm)
    gamma, beta, mean, variance = (graph.constants[name] for name in norm.inputs[1:])
    scale = gamma * torch.rsqrt(variance + norm.operation.eps)
    return scale, beta - scale * mean


def _weight_and_bias(graph: Graph, layer: Node) -> tuple[Tensor, Tensor]:
    weight = graph.constants[layer.inputs[1]]
    bias = graph.constants[layer.inputs[2]] if len(layer.inputs) > 2 else torch.zeros(len(weight))
    return weight, bias


def _with_constants(graph: Graph, layer: Node, weight: Tensor, bias: Tensor) -> tuple[Node, dict[str, Tensor]]:
    """The layer with another weight and bias; under their old names, unless somebody else reads those."""
    stem = layer.name.removesuffix(".output")
    old = {"weight": layer.inputs[1], "bias": layer.inputs[2] if len(layer.inputs) > 2 else ""}
    names = {}
    for role, name in old.items():
        alone = bool(name) and len(graph.readers[name]) == 1
        names[role] = name if alone else _free_name(f"{layer.module or stem}.{role}", graph, stem, role)
    inputs = (layer.inputs[0], names["weight"], names["bias"])
    return replace(layer, inputs=inputs), {names["weight"]: weight, names["bias"]: bias}


def _free_name(wanted: str, graph: Graph, stem: str, role: str) -> str:
    return next(name for name in (wanted, f"{stem}.{role}", f"{stem}.folded_{role}") if name not in graph.constants)


def _rebuilt(graph: Graph, changed: dict[str, Node], constants: dict[str, Tensor], renamed: dict[str, str]) -> Graph:
    """The graph with some nodes replaced and some tensors read under another name."""
    nodes = tuple(
        replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        for node in (changed.get(node.name, node) for node in graph.nodes)
    )
    outputs = tuple(renamed.get(name, name) for name in graph.outputs)
    return pruned(graph, nodes, {**graph.constants, **constants}, outputs)
