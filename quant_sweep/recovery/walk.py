"""From layer to layer in the order of execution, the float network beside the quantized one, over all inputs at once.

At each layer a method says which weight, near which grid, it shall have; the quantized network then goes on with it,
so that the next layer is fitted to what it will really read. Its bias becomes the one that makes the mean of every
output channel that of the float network.

Where a layer's output goes into a sum alone, the sum is what has to come out: the layer then aims at the float sum less
what the quantized network adds to it. The other operand is therefore computed first, where it can be.

A layer that is fitted by least squares to a noisy input makes smaller outputs than the float network does. The steps
that were chosen for the float network are then too wide, so they can follow the tensors.

Sources: Finkelstein et al. 2019, arXiv:1906.03193, for the biases; the sum is that of AdaRound's blocks made exact.
Leaves out: weights that several layers share, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import INPUT, FakeQuantize, Graph, Node, QuantGraph
from quant_sweep.graph.fold import output_axis
from quant_sweep.graph.operations import Add, Weighted
from quant_sweep.graph.quantizers import only_reader, other_operand
from quant_sweep.recovery.base import OnGrids
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.progress import tracked


@final
@dataclass(frozen=True, eq=False)
class Layer:
    """A layer whose weight is to be chosen.

    Attributes:
        name: of its node.
        operation: what it computes.
        original: the float network's weight, (out, in / groups, *kernel).
        weight: that of the quantized network, perhaps beside its grid.
        grid: of the weight.
        inputs: what it reads in the quantized network, a tensor a batch.
        targets: what it should write so that the float network's values come out, a tensor a batch; without its bias
            they may be off by a constant per channel.
    """

    name: str
    operation: Weighted
    original: Tensor
    weight: Tensor
    grid: QParams
    inputs: Sequence[Tensor]
    targets: Sequence[Tensor]


Choose: TypeAlias = Callable[[Layer], tuple[Tensor, QParams]]  # the weight, near its grid, and the grid


@torch.no_grad()
@full_precision()
def walk(
    original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor], choose: Choose, rescale: float = 0.0
) -> OnGrids:
    """Choose the weight of every layer, and give each the bias that makes the means of its outputs right.

    Args:
        original: the float network.
        quantized: the same on grids.
        batches: inputs, float32 (n, ...) each; what both networks make of all of them is kept until it was read.
        choose: is called for each layer in turn.
        rescale: the step of an activation is multiplied by its root mean square here, divided by that in the float
            network, to this power. 0 keeps the step, 1 the number of steps that the tensor spans.
    """
    return _Walk(original, quantized, batches, choose, rescale).run()


Values: TypeAlias = dict[str, list[Any]]  # by the name of the tensor, what comes of each batch


@final
class _Walk:
    """The two networks as far as they are computed."""

    def __init__(
        self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor], choose: Choose, rescale: float
    ) -> None:
        device = batches[0].device
        self.original, self.graph = original.graph, quantized.graph.graph
        self.quantized, self.choose, self.rescale, self.count = quantized, choose, rescale, len(batches)
        self.qparams = {name: grid.to(device) for name, grid in quantized.qparams.items()}
        self.weights = {q.name for q in quantized.graph.weights if q.name in self.qparams}
        self.readers = {q.name: q.readers for q in quantized.graph.activations if q.name in self.qparams}
        self.grids = {name: FakeQuantize(self.qparams[name]) for name in self.readers}
        self.float_constants = {name: value.to(device) for name, value in self.original.constants.items()}
        self.constants = {name: value.to(device) for name, value in self.graph.constants.items()}
        self.nodes = {node.name: node for node in self.graph.nodes}
        images = [_side_by_side(batch) for batch in batches]
        self.float: Values = {INPUT: images}
        self.here: Values = {INPUT: list(images)}

    def run(self) -> OnGrids:
        unread = {name: len(readers) for name, readers in self.graph.readers.items()}
        nodes = list(in_order(self.graph))
        for node in tracked(nodes, "recovery", len(nodes)):
            before = self.original.node[node.name]
            self.float[node.name] = [
                before.operation(*(self._float_value(name, i) for name in before.inputs)) for i in range(self.count)
            ]
            if isinstance(node.operation, Weighted) and self._is_free(node):
                self._layer(node)
            else:
                self.here[node.name] = [self._computed(node, i) for i in range(self.count)]
            if self.rescale and node.name in self.grids:
                self._rescale(node.name)
            for name in dict.fromkeys(node.inputs):
                unread[name] -= 1
                if not unread[name] and name not in self.graph.constants:
                    del self.float[name], self.here[name]
        changed = tuple(self.nodes[node.name] for node in self.graph.nodes)
        constants = {name: value.cpu() for name, value in self.constants.items()}
        graph = replace(self.quantized.graph, graph=replace(self.graph, nodes=changed, constants=constants))
        return OnGrids(graph, {name: grid.to(torch.device("cpu")) for name, grid in self.qparams.items()})

    def _is_free(self, node: Node) -> bool:
        """Whether the layer's weight lies on a grid and is its alone."""
        return node.inputs[1] in self.weights and len(self.graph.readers[node.inputs[1]]) == 1

    # -- values --

    def _float_value(self, name: str, i: int) -> Any:
        return self.float_constants[name] if name in self.float_constants else self.float[name][i]

    def _read(self, name: str, reader: str, i: int) -> Any:
        """What a node reads in the quantized network."""
        if name in self.constants:
            return (
                fake_quantize(self.constants[name], self.qparams[name])
                if name in self.weights
                else self.constants[name]
            )
        value = self.here[name][i]
        return self.grids[name](value) if reader in self.readers.get(name, ()) else value

    def _computed(self, node: Node, i: int) -> Any:
        return node.operation(*(self._read(name, node.name, i) for name in node.inputs))

    def _rescale(self, name: str) -> None:
        """Let the step of a tensor follow it, unless one of the two networks has nothing but zeros there."""
        here, in_float = _norm(self.here[name]), _norm(self.float[name])
        if here > 0 and in_float > 0:
            grid = self.qparams[name]
            self.qparams[name] = replace(grid, scale=grid.scale * ((here / in_float) ** self.rescale).to(grid.scale))
            self.grids[name] = FakeQuantize(self.qparams[name])

    # -- layers --

    def _layer(self, node: Node) -> None:
        weight = node.inputs[1]
        assert isinstance(node.operation, Weighted)
        inputs = [self._read(node.inputs[0], node.name, i) for i in range(self.count)]
        targets = self._targets(node)
        before = self.float_constants[self.original.node[node.name].inputs[1]]
        layer = Layer(node.name, node.operation, before, self.constants[weight], self.qparams[weight], inputs, targets)
        self.constants[weight], self.qparams[weight] = self.choose(layer)
        rounded = fake_quantize(self.constants[weight], self.qparams[weight])
        made = [node.operation(x, rounded) for x in inputs]
        axis = output_axis(node)
        bias = (channel_means(targets, axis) - channel_means(made, axis)).to(rounded.dtype)
        name = self._bias_name(node)
        self.constants[name] = bias
        self.nodes[node.name] = replace(node, inputs=(*node.inputs[:2], name))
        shape = [1] * made[0].dim()
        shape[axis] = -1
        self.here[node.name] = [y.add_(bias.reshape(shape)) for y in made]

    def _targets(self, node: Node) -> list[Tensor]:
        """What the layer should write: the float network's output, and in a sum what makes up for the other operand."""
        targets: list[Tensor] = self.float[node.name]
        add = added_to(self.graph, node)
        if add is None:
            return targets
        other = other_operand(add, node.name)
        if other in self.constants or other not in self.here:
            return targets
        return [y + (self.float[other][i] - self._read(other, add.name, i)) for i, y in enumerate(targets)]

    def _bias_name(self, node: Node) -> str:
        """Of the layer's own bias; a new one where it has none, or shares it."""
        if len(node.inputs) > 2 and len(self.graph.readers[node.inputs[2]]) == 1:
            return node.inputs[2]
        stem = node.inputs[1].removesuffix(".weight")
        wanted = (f"{stem}.bias", f"{stem}.recovered_bias", f"{node.name}.recovered_bias")
        return next(name for name in wanted if name not in self.constants)


def _side_by_side(batch: Tensor) -> Tensor:
    """The same images with their channels side by side: convolutions, and windows of them, are then read faster."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def added_to(graph: Graph, layer: Node) -> Node | None:
    """The sum that alone reads a layer's output, if the sum has its shape."""
    reader = only_reader(graph, layer.name)
    if reader is None or not isinstance(reader.operation, Add) or reader.inputs[0] == reader.inputs[1]:
        return None
    return reader if reader.shape == layer.shape else None


def in_order(graph: Graph) -> Iterator[Node]:
    """The nodes in an order in which they can be computed: that of the graph, except that what a layer's output is
    added to comes before the layer. It is not made of the layer, whose output the sum alone reads."""
    done, waiting = set[str](), set[str]()

    def with_what_it_reads(name: str) -> Iterator[Node]:
        if name in done or name not in graph.node:
            return
        node = graph.node[name]
        for read in node.inputs:
            yield from with_what_it_reads(read)
        add = added_to(graph, node) if isinstance(node.operation, Weighted) else None
        if add is not None:
            other = other_operand(add, name)
            if other not in waiting:
                waiting.add(name)
                yield from with_what_it_reads(other)
        if name not in done:
            done.add(name)
            yield node

    for node in graph.nodes:
        yield from with_what_it_reads(node.name)


def channel_means(batches: Sequence[Tensor], axis: int) -> Tensor:
    """Mean of every channel over all else, float64 (channels,)."""
    sums = sum(batch.transpose(0, axis).flatten(1).sum(dim=1, dtype=torch.float64) for batch in batches)
    count = sum(batch.numel() // batch.shape[axis] for batch in batches)
    assert isinstance(sums, Tensor)
    return sums / count


def _norm(batches: Sequence[Tensor]) -> Tensor:
    """Root of the sum of all squares, float64 ()."""
    norm: Tensor = torch.stack([torch.linalg.vector_norm(batch) for batch in batches]).double().norm()
    return norm
