"""`equalize`: the channels between two layers are scaled so that none is small on the grids on both sides of it.

Where a layer's output goes, through a ReLU or a pooling at most, into one other layer alone, channel i may be divided
by any t_i > 0 and the next layer's weights for it multiplied by t_i: the network stays the same. With r1_i and r2_i
the largest weights of channel i on either side, t_i = sqrt(r1_i / r2_i) makes both sqrt(r1_i r2_i). Pairs are taken in
turns until nothing moves. Activations that changed get grids of least squared error, weights such that clip nothing.

Source: Nagel et al. 2019, arXiv:1906.04721, section 4.1. Leaves out: ReLU6, for which it does not hold, and layers that
read through a reshape.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from torch import Tensor

from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.errors import InputError
from quant_sweep.graph import Graph, Node, QuantGraph
from quant_sweep.graph.operations import (
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    AveragePool,
    Clamp,
    Convolution,
    Linear,
    MaxPool,
    Weighted,
)
from quant_sweep.graph.quantizers import only_reader
from quant_sweep.observers import MSE, MinMax
from quant_sweep.recovery.base import OnGrids, Recovery

_ROUNDS, _STILL = 40, 1e-3  # most rounds; a round that changes no factor by more ends them


@final
@dataclass(frozen=True)
class Pair:
    """Two layers, the names of their nodes, and the tensors between them."""

    first: str
    second: str
    between: tuple[str, ...]


@final
@dataclass(frozen=True)
class Equalize(Recovery):
    """Cross-layer equalisation; methods after it compare with the float network as it is then."""

    def same_network(self, original: QuantGraph) -> QuantGraph:
        graph = original.graph
        return replace(original, graph=_scaled(graph, _factors(graph, pairs_of(graph))))

    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        pairs = pairs_of(original.graph)
        if not pairs:
            raise InputError("recovery=equalize: no layer of this network reads another one through a ReLU alone")
        factors = _factors(original.graph, pairs)
        graph = replace(quantized.graph, graph=_scaled(quantized.graph.graph, factors))
        node = graph.graph.node
        layers = [name for pair in pairs for name in (pair.first, pair.second)]
        changed = {node[name].inputs[1] for name in layers} | {name for pair in pairs for name in pair.between}
        specs = {name: grid.spec for name, grid in quantized.qparams.items() if name in changed}
        new = choose_qparams(calibrate(graph, batches), specs, MSE(), MinMax())
        new = {name: grid.to(quantized.qparams[name].scale.device) for name, grid in new.items()}
        return OnGrids(graph, {**quantized.qparams, **new})


def pairs_of(graph: Graph) -> list[Pair]:
    """The layers that can be scaled against each other."""
    found = []
    for node in graph.nodes:
        if isinstance(node.operation, Weighted) and len(graph.readers[node.inputs[1]]) == 1:
            between, reader = [node.name], only_reader(graph, node.name)
            while reader is not None and _keeps_scaling(reader, node) and reader.shape[1:2] == node.shape[1:2]:
                between.append(reader.name)
                reader = only_reader(graph, reader.name)
            if reader is not None and _reads_channels(graph, reader, between[-1], node):
                found.append(Pair(node.name, reader.name, tuple(between)))
    return found


def _keeps_scaling(node: Node, layer: Node) -> bool:
    """Whether f(t x) = t f(x) for t > 0, channel by channel of the layer."""
    if isinstance(node.operation, Clamp):
        return node.operation == Clamp(0.0, float("inf"))
    if isinstance(layer.operation, Linear):
        return False  # a pooling would mix its channels
    if isinstance(node.operation, MaxPool | AveragePool):
        return len(node.shape) == 2 + len(node.operation.kernel)
    if isinstance(node.operation, AdaptiveMaxPool | AdaptiveAveragePool):
        return len(node.shape) == 2 + len(node.operation.size)
    return False


def _reads_channels(graph: Graph, reader: Node, tensor: str, layer: Node) -> bool:
    alone = isinstance(reader.operation, Weighted) and len(graph.readers[reader.inputs[1]]) == 1
    if not alone or reader.inputs[0] != tensor:
        return False
    return isinstance(reader.operation, Convolution) == isinstance(layer.operation, Convolution)


def _factors(graph: Graph, pairs: Sequence[Pair]) -> dict[Pair, Tensor]:
    """t of every pair, float64 (channels,)."""
    weights = {node.inputs[1]: graph.constants[node.inputs[1]].double() for node in graph.nodes if _is_layer(node)}
    total = {pair: torch.ones(len(weights[graph.node[pair.first].inputs[1]]), dtype=torch.float64) for pair in pairs}
    for _ in range(_ROUNDS):
        moved = 0.0
        for pair in pairs:
            first, second = (graph.node[name] for name in (pair.first, pair.second))
            r1 = weights[first.inputs[1]].flatten(1).abs().amax(dim=1)
            r2 = _by_input(second, weights[second.inputs[1]].abs()).amax(dim=1)
            usable = (r1 > 0) & (r2 > 0)
            t = torch.where(usable, r1 / r2, 1.0).sqrt()
            weights[first.inputs[1]] = _rows_times(weights[first.inputs[1]], 1 / t)
            weights[second.inputs[1]] = _inputs_times(second, weights[second.inputs[1]], t)
            total[pair] *= t
            moved = max(moved, float((t - 1).abs().max()))
        if moved < _STILL:
            break
    return total


def _is_layer(node: Node) -> bool:
    return isinstance(node.operation, Weighted)


def _scaled(graph: Graph, factors: Mapping[Pair, Tensor]) -> Graph:
    constants = dict(graph.constants)
    for pair, t in factors.items():
        first, second = (graph.node[name] for name in (pair.first, pair.second))
        for name in first.inputs[1:]:
            constants[name] = _rows_times(constants[name].double(), 1 / t).float()
        name = second.inputs[1]
        constants[name] = _inputs_times(second, constants[name].double(), t).float()
    return replace(graph, constants=constants)


def _rows_times(weight: Tensor, t: Tensor) -> Tensor:
    """Output channels times t; of a bias, its numbers."""
    return weight * t.reshape(-1, *[1] * (weight.dim() - 1))


def _by_input(layer: Node, weight: Tensor) -> Tensor:
    """A weight, (out, in / groups, *kernel), by the channel that it multiplies: (in, out / groups * places)."""
    groups = layer.operation.groups if isinstance(layer.operation, Convolution) else 1
    grouped = weight.reshape(groups, len(weight) // groups, weight.shape[1], -1)
    return grouped.transpose(1, 2).reshape(groups * weight.shape[1], -1)


def _inputs_times(layer: Node, weight: Tensor, t: Tensor) -> Tensor:
    """Weights for input channel i times t_i."""
    groups = layer.operation.groups if isinstance(layer.operation, Convolution) else 1
    each = t.reshape(groups, 1, weight.shape[1]).expand(-1, len(weight) // groups, -1)
    return weight * each.reshape(len(weight), weight.shape[1], *[1] * (weight.dim() - 2))
