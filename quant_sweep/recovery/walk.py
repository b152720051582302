"""From layer to layer in the order of execution, the float network beside the quantized one, over all inputs at once.

At each layer a method says which weight, near which grid, it shall have; the quantized network then goes on with it,
so that the next layer is fitted to what it will really read. Its bias becomes the one that makes the mean of every
output channel that of the float network.

Where a layer's output goes into a sum alone, the sum is what has to come out: the layer then aims at the float sum less
what the quantized network adds to it. The other operand is therefore computed first, where it can be.

A layer that is fitted by least squares to a noisy input makes smaller outputs than the float network does. The steps
that were chosen for the float network are then too wide, so they can follow the tensors.

What alone reads a layer's output, such as a ReLU, is computed with it, batch by batch, by several threads; the last
tensor is kept until it was read, in the quantized network as codes, in the float network in half precision if it is
large.

Sources: Finkelstein et al. 2019, arXiv:1906.03193, for the biases; the sum is that of AdaRound's blocks made exact.
Leaves out: weights that several layers share, which stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any, TypeAlias, final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import INPUT, FakeQuantize, Graph, Node, QuantGraph
from quant_sweep.graph.fold import output_axis
from quant_sweep.graph.operations import Weighted
from quant_sweep.graph.quantizers import only_reader, other_operand
from quant_sweep.recovery.base import OnGrids
from quant_sweep.recovery.order import added_to, in_order
from quant_sweep.runtime.freed_memory import give_back
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.progress import tracked
from quant_sweep.runtime.threads import Workers

_MEASURED = 128  # inputs that tell how large a tensor is
_LARGE = 2**27  # bytes of a tensor over all inputs
# Where the largest value of a tensor lies if half precision holds it, and rounds no value by more than 2**-20 of it or
# 2**-11 of the value.
_LEAST_IN_HALF, _MOST_IN_HALF = 2.0**-4, 2.0**15


@final
@dataclass(frozen=True, eq=False)
class Batches(Iterable[Tensor]):
    """A tensor a batch, made whenever it is asked for, so that none has to be kept.

    Attributes:
        count: how many batches.
        make: the tensor of a batch, (n, ...), by its number.
    """

    count: int
    make: Callable[[int], Tensor]

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[Tensor]:
        return map(self.make, range(self.count))


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
        inputs: what it reads in the quantized network; as the targets, to be read while its weight is chosen.
        targets: what it should write so that the float network's values come out; without its bias they may be off by
            a constant per channel.
        workers: to share out the batches.
    """

    name: str
    operation: Weighted
    original: Tensor
    weight: Tensor
    grid: QParams
    inputs: Batches
    targets: Batches
    workers: Workers


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


@final
class _Values:
    """What a network makes of every batch, by the name of the node, until all that read it are computed."""

    def __init__(self, graph: Graph, images: Sequence[Tensor], workers: Workers) -> None:
        self.of: dict[str, list[Any]] = {INPUT: list(images)}
        self._count, self._workers = len(images), workers
        self._unread = {name: len(readers) for name, readers in graph.readers.items()}

    def keep(self, nodes: Sequence[Node], value: Callable[[int], Any]) -> None:
        """Keep what the last of some nodes makes, and let go, batch by batch, of what nobody else reads.

        Args:
            nodes: that are computed together.
            value: of a batch, by its number.
        """
        read = [name for node in nodes for name in dict.fromkeys(node.inputs) if name in self.of]
        for name in read:
            self._unread[name] -= 1
        done = [name for name in dict.fromkeys(read) if not self._unread[name]]

        def made_by(i: int) -> Any:
            made = value(i)
            for name in done:
                self.of[name][i] = None
            return made

        self.of[nodes[-1].name] = self._workers.map(made_by, range(self._count))
        for name in done:
            del self.of[name]


@final
class _Walk:
    """The two networks as far as they are computed."""

    def __init__(
        self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor], choose: Choose, rescale: float
    ) -> None:
        device = batches[0].device
        self.original, self.graph = original.graph, quantized.graph.graph
        self.quantized, self.choose, self.rescale = quantized, choose, rescale
        self.qparams = {name: grid.to(device) for name, grid in quantized.qparams.items()}
        self.weights = {q.name for q in quantized.graph.weights if q.name in self.qparams}
        self.readers = {q.name: q.readers for q in quantized.graph.activations if q.name in self.qparams}
        self.grids = {name: FakeQuantize(self.qparams[name]) for name in self.readers}
        self.float_constants = {name: value.to(device) for name, value in self.original.constants.items()}
        self.constants = {name: value.to(device) for name, value in self.graph.constants.items()}
        self.nodes = {node.name: node for node in self.graph.nodes}
        images = [_side_by_side(batch) for batch in batches]
        self.workers = Workers(device)
        self.float, self.here = (_Values(graph, images, self.workers) for graph in (self.original, self.graph))
        self.inputs = sum(map(len, batches))
        self.count, self.measured = len(batches), _first_batches(batches, _MEASURED) if rescale else 0
        self.float_norms = {name: torch.zeros(self.measured, dtype=torch.float64) for name in self.grids}

    def run(self) -> OnGrids:
        nodes, computed = list(in_order(self.graph)), set[str]()
        for node in tracked(nodes, "recovery", len(nodes)):
            if node.name not in computed:
                chain = self._chain(node)
                self._compute(chain)
                computed |= {one.name for one in chain}
                give_back()
        changed = tuple(self.nodes[node.name] for node in self.graph.nodes)
        constants = {name: value.cpu() for name, value in self.constants.items()}
        graph = replace(self.quantized.graph, graph=replace(self.graph, nodes=changed, constants=constants))
        return OnGrids(graph, {name: grid.to(torch.device("cpu")) for name, grid in self.qparams.items()})

    def _chain(self, node: Node) -> list[Node]:
        """A node, the one that alone reads what it makes, and so on, as far as they can be computed without a fit."""
        chain = [node]
        while (reader := only_reader(self.graph, chain[-1].name)) is not None:
            others = [name for name in self.graph.computed_inputs(reader) if name != chain[-1].name]
            if self._is_free(reader) or not all(name in self.here.of for name in others):
                break
            chain.append(reader)
        return chain

    def _compute(self, chain: Sequence[Node]) -> None:
        """A chain in both networks; what is kept of it is the output of its last node."""
        layer = chain[0]
        if not self._is_free(layer):
            self._compute_in_float(chain)
        else:
            fitted = 2 if self._sum_behind(layer) else 1
            self._compute_in_float(chain[:fitted])
            self._fit(layer)
            if chain[fitted:]:
                self._compute_in_float(chain[fitted:])
        self._compute_here([self.nodes[node.name] for node in chain])

    def _is_free(self, node: Node) -> bool:
        """Whether it is a layer whose weight lies on a grid and is its alone."""
        if not isinstance(node.operation, Weighted):
            return False
        return node.inputs[1] in self.weights and len(self.graph.readers[node.inputs[1]]) == 1

    def _sum_behind(self, layer: Node) -> Node | None:
        """The sum that alone reads a layer's output, if what else goes into it is computed."""
        add = added_to(self.graph, layer)
        return add if add is not None and other_operand(add, layer.name) in self.here.of else None

    # -- values --

    def _compute_in_float(self, chain: Sequence[Node]) -> None:
        def value(i: int) -> Any:
            made: dict[str, Any] = {}
            for node in chain:
                before = self.original.node[node.name]
                read = (made[name] if name in made else self._float_value(name, i) for name in before.inputs)
                made = {node.name: before.operation(*read)}
                if i < self.measured and node.name in self.grids:
                    self.float_norms[node.name][i] = torch.linalg.vector_norm(made[node.name])
            return self._kept(made[chain[-1].name])

        self.float.keep([self.original.node[node.name] for node in chain], value)

    def _kept(self, value: Any) -> Any:
        """A value of the float network as it is kept: half precision rounds far finer than a grid does."""
        if not isinstance(value, Tensor) or value.dtype != torch.float32 or value.nbytes * self.count < _LARGE:
            return value
        largest = max(abs(float(end)) for end in value.aminmax())
        return value.to(torch.float16) if _LEAST_IN_HALF <= largest <= _MOST_IN_HALF else value

    def _float_value(self, name: str, i: int) -> Any:
        return self.float_constants[name] if name in self.float_constants else _whole(self.float.of[name][i])

    def _compute_here(self, chain: Sequence[Node]) -> None:
        """In the quantized network. Steps follow what the first batches make, before the others are computed."""
        names = [name for node in chain for name in node.inputs if name in self.constants]
        constants = {name: self._constant(name) for name in names}

        def made_by(node: Node, known: Mapping[str, Any], i: int) -> dict[str, Any]:
            return {node.name: node.operation(*(self._read(name, node.name, i, known) for name in node.inputs))}

        first: list[dict[str, Any]] = [{} for _ in range(self.measured)]
        for node in chain:

            def go_on(i: int, node: Node = node) -> None:
                first[i] = made_by(node, constants | first[i], i)

            self.workers.map(go_on, range(len(first)))
            if node.name in self.grids and first:
                self._rescale(node.name, [known[node.name] for known in first])
        last = chain[-1].name
        stored = [self._stored(last, known[last]) for known in first]
        first.clear()

        def value(i: int) -> Any:
            if i < len(stored):
                return stored[i]
            known: dict[str, Any] = {}
            for node in chain:
                known = made_by(node, constants | known, i)
            return self._stored(last, known[last])

        self.here.keep(chain, value)

    def _constant(self, name: str) -> Tensor:
        """As nodes read it."""
        value = self.constants[name]
        return fake_quantize(value, self.qparams[name]) if name in self.weights else value

    def _read(self, name: str, reader: str, i: int, known: Mapping[str, Any]) -> Any:
        """What a node reads in the quantized network; `known` is not kept there."""
        on_grid = reader in self.readers.get(name, ())
        if name in known or not on_grid:
            value = known[name] if name in known else self.here.of[name][i]
            return self.grids[name](value) if on_grid else value
        value, grid = self.here.of[name][i], self.grids[name]
        if value.dtype == torch.uint8:
            return value.to(torch.float32).add_(grid.lowest).mul_(grid.scale)
        return grid(value)

    def _stored(self, name: str, value: Any) -> Any:
        """As it is kept: as codes, a fourth of the memory, if all read it on a grid whose codes fit into a byte. What
        they read is the same."""
        readers = self.graph.readers[name]
        if not readers or not all(reader.name in self.readers.get(name, ()) for reader in readers):
            return value
        grid = self.grids[name]
        codes = grid.highest - grid.lowest + 1
        return grid.codes(value).sub_(grid.lowest).to(torch.uint8) if codes <= 256 else value

    def _rescale(self, name: str, values: Sequence[Tensor]) -> None:
        """Let the step of a tensor follow it, unless one of the two networks has nothing but zeros there."""
        here = torch.stack([torch.linalg.vector_norm(value) for value in values]).double().norm()
        in_float = self.float_norms[name].norm()
        if here > 0 and in_float > 0:
            grid = self.qparams[name]
            self.qparams[name] = replace(grid, scale=grid.scale * ((here / in_float) ** self.rescale).to(grid.scale))
            self.grids[name] = FakeQuantize(self.qparams[name])

    # -- layers --

    def _fit(self, node: Node) -> None:
        """Choose a layer's weight and bias."""
        operation, (source, weight, *_) = node.operation, node.inputs
        assert isinstance(operation, Weighted)
        inputs = Batches(self.count, lambda i: self._read(source, node.name, i, {}))
        targets = Batches(self.count, self._target_of(node))
        before = self.float_constants[self.original.node[node.name].inputs[1]]
        layer = Layer(
            node.name, operation, before, self.constants[weight], self.qparams[weight], inputs, targets, self.workers
        )
        self.constants[weight], self.qparams[weight] = self.choose(layer)
        axis = output_axis(node)
        made = operation(self._mean(inputs).float(), self._constant(weight))  # mean output, for the layer is linear
        bias = channel_means([self._mean(targets)], axis) - channel_means([made], axis)
        name = self._bias_name(node)
        self.constants[name] = bias.to(before.dtype)
        self.nodes[node.name] = replace(node, inputs=(*node.inputs[:2], name))

    def _mean(self, batches: Batches) -> Tensor:
        """Over all inputs, float64 (1, ...)."""

        def total(numbers: range) -> Tensor:
            first, *others = numbers
            made = batches.make(first).sum(dim=0, keepdim=True).double()
            for i in others:
                made += batches.make(i).sum(dim=0)
            return made

        totals = self.workers.map(total, self.workers.runs(self.count))
        return torch.stack(totals).sum(dim=0) / self.inputs

    def _target_of(self, node: Node) -> Callable[[int], Tensor]:
        """What the layer should write in a batch: the float network's output, and where it goes into a sum the float
        network's sum, less what the quantized network adds."""
        add = self._sum_behind(node)
        if add is None:
            return lambda i: self._float_value(node.name, i)
        other = other_operand(add, node.name)
        return lambda i: self._float_value(add.name, i) - self._read(other, add.name, i, {})

    def _bias_name(self, node: Node) -> str:
        """Of the layer's own bias; a new one where it has none, or shares it."""
        if len(node.inputs) > 2 and len(self.graph.readers[node.inputs[2]]) == 1:
            return node.inputs[2]
        stem = node.inputs[1].removesuffix(".weight")
        wanted = (f"{stem}.bias", f"{stem}.recovered_bias", f"{node.name}.recovered_bias")
        return next(name for name in wanted if name not in self.constants)


def _whole(value: Any) -> Any:
    return value.to(torch.float32) if isinstance(value, Tensor) and value.dtype == torch.float16 else value


def _first_batches(batches: Sequence[Tensor], inputs: int) -> int:
    """How many batches, from the first, hold so many inputs; all, if there are fewer."""
    before = accumulate(map(len, batches), initial=0)
    return sum(count < inputs for count, _ in zip(before, batches, strict=False))


def _side_by_side(batch: Tensor) -> Tensor:
    """The same images with their channels side by side: convolutions, and windows of them, are then read faster."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.dim() == 4 else batch


def channel_means(batches: Iterable[Tensor], axis: int) -> Tensor:
    """Mean of every channel over all else, float64 (channels,)."""
    sums, count = list[Tensor](), 0
    for batch in batches:
        sums.append(batch.transpose(0, axis).flatten(1).sum(dim=1, dtype=torch.float64))
        count += batch.numel() // batch.shape[axis]
    return torch.stack(sums).sum(dim=0) / count
