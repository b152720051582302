"""What widths of single tensors do to the outputs of a network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.graph import FakeQuantize, Network, Node, QuantGraph, insert_at_quantizers, weights_on_grid
from quant_sweep.graph.fold import output_axis
from quant_sweep.quantization.scheme import FLOAT, Width
from quant_sweep.recovery import OnGrids
from quant_sweep.recovery.recover import apart
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.threads import Workers

Widths = Mapping[str, Width]  # by tensor
Damages = dict[str, dict[Width, float]]  # of each tensor at each width


@torch.no_grad()
@full_precision()
def damage_and_changes(original: QuantGraph, state: OnGrids, batches: Sequence[Tensor]) -> tuple[float, float]:
    """Mean divergence of the outputs, see `recovery.recover.damages`, and percent of the images with another class."""
    device, images = batches[0].device, sum(map(len, batches))
    networks = [network.to(device) for network in (Network(original.graph), _network(state))]

    def of(batch: Tensor) -> tuple[float, int]:
        wanted, found = (pytree.tree_leaves(network(batch)) for network in networks)
        changed = (wanted[0].argmax(-1) != found[0].argmax(-1)).reshape(len(batch), -1).any(1)
        return len(batch) * apart(wanted, found), int(changed.sum())

    damages, changes = zip(*Workers(device).map(of, batches), strict=True)
    return sum(damages) / images, 100.0 * sum(changes) / images


@torch.no_grad()
@full_precision()
def tensor_damages(
    original: QuantGraph,
    weights: Mapping[Width, OnGrids],
    activations: Mapping[Width, OnGrids],
    choices: Mapping[str, tuple[Width, ...]],
    batches: Sequence[Tensor],
) -> Damages:
    """The damage to the outputs when one tensor of the float network gets a width.

    Args:
        original: the float network.
        weights: networks whose weights have a width; a weight and the bias of its layer are taken from there.
        activations: networks whose activations have it; their grids are taken.
        choices: the widths to measure, by tensor.
        batches: inputs; what the float network makes of one is kept in memory meanwhile, by each thread of one.

    Returns:
        by tensor and width; 0 in float.
    """
    device, images = batches[0].device, sum(map(len, batches))
    original = _with_biases(original)
    network = insert_at_quantizers(original, {q.name: _unchanged for q in original.activations}).to(device)
    layers = {q.name: q.layers for q in original.weights}

    def of(batch: Tensor) -> Damages:
        values = network.values(batch, keep=lambda _: True)
        outputs = pytree.tree_leaves(network.returned(values))

        def damage(name: str, width: Width) -> float:
            if width == FLOAT:
                return 0.0
            inserted = {} if name in layers else {name: _stand_in(activations[width], name)}
            constants = _swapped(original, weights[width], name, layers[name]) if name in layers else {}
            constants = {key: value.to(device) for key, value in constants.items()}
            made = pytree.tree_leaves(network.again(values, inserted, constants))
            return apart(outputs, made) * len(batch) / images

        return {name: {width: damage(name, width) for width in choice} for name, choice in choices.items()}

    parts = Workers(device).map(of, batches)
    return {
        name: {width: sum(part[name][width] for part in parts) for width in choice} for name, choice in choices.items()
    }


def _network(state: OnGrids) -> Network:
    grids = {q.name: _stand_in(state, q.name) for q in state.graph.activations}
    return insert_at_quantizers(state.graph, grids, weights_on_grid(state.graph, state.qparams))


def _stand_in(state: OnGrids, name: str) -> Callable[[Tensor], Tensor]:
    return FakeQuantize(state.qparams[name]) if name in state.qparams else _unchanged


def _unchanged(x: Tensor) -> Tensor:
    return x


def _with_biases(original: QuantGraph) -> QuantGraph:
    """The same network whose layers all have a bias, 0 where they had none: a recovery may give them one."""
    graph, nodes, zeros = original.graph, list[Node](), dict[str, Tensor]()
    layers = {layer for q in original.weights for layer in q.layers}
    for node in graph.nodes:
        if node.name in layers and len(node.inputs) == 2:
            zeros[f"{node.name}.no_bias"] = graph.constants[node.inputs[1]].new_zeros(node.shape[output_axis(node)])
            node = replace(node, inputs=(*node.inputs, f"{node.name}.no_bias"))
        nodes.append(node)
    return replace(original, graph=replace(graph, nodes=tuple(nodes), constants={**graph.constants, **zeros}))


def _swapped(original: QuantGraph, other: OnGrids, weight: str, layers: Sequence[str]) -> dict[str, Tensor]:
    """A weight of another network, with the bias that its layer has there."""
    graph, there = original.graph, other.graph.graph
    made = {weight: fake_quantize(there.constants[weight], other.qparams[weight])}
    if len(layers) > 1:
        return made
    bias, theirs = graph.node[layers[0]].inputs[2], there.node[layers[0]].inputs[2:]
    made[bias] = there.constants[theirs[0]] if theirs else torch.zeros_like(graph.constants[bias])
    return made
