"""Running the records of a graph: the whole network, with something standing in at its quantizers, or only a part."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quant_sweep.graph.graph import INPUT, Graph, Node

Values: TypeAlias = Mapping[str, Any]  # what nodes made, by name
See: TypeAlias = Callable[[str, Any], None]  # is shown a value and its name


@final
class Network(nn.Module):
    """A graph as a module: a batch of inputs, float32 (n, ...), to what the model returns.

    Args:
        graph: is not changed; on its device the module shares its constants.
        inserted: by the name of a tensor, a function of it, and the names of the nodes that read the function's result
            in the tensor's place.
    """

    def __init__(
        self, graph: Graph, inserted: Mapping[str, tuple[Callable[[Tensor], Tensor], Sequence[str]]] | None = None
    ) -> None:
        super().__init__()
        self.graph, self.inserted = graph, dict(inserted or {})
        self._constants = list(graph.constants)
        for position, tensor in enumerate(graph.constants.values()):
            self.register_buffer(f"constant_{position}", tensor.detach())
        self._calls = _calls(graph, self.inserted)

    def forward(self, x: Tensor) -> Any:
        return self.returned(self.values(x))

    def values(
        self, x: Tensor, keep: Callable[[str], bool] = lambda _name: False, constants: Values | None = None
    ) -> dict[str, Any]:
        """What the nodes make, by name: the outputs, and those that `keep` wants.

        Args:
            x: inputs.
            keep: whether a value is wanted.
            constants: by name, in the place of the graph's own.
        """
        values: dict[str, Any] = {INPUT: x, **self._buffers_by_name(), **(constants or {})}
        for name, function, inputs, dead in self._calls:
            values[name] = function(*[values[read] for read in inputs])
            for read in dead:
                if not keep(read):
                    del values[read]
        return values

    def again(self, values: Values, inserted: Mapping[str, Callable[[Tensor], Tensor]], constants: Values) -> Any:
        """What the network returns with other functions at some of its quantizers and other constants.

        Args:
            values: of all nodes, for the same inputs, as `values` returned them; what does not depend on a change is
                taken from there.
            inserted: by the name of a tensor for which the network has one already.
            constants: by name.
        """
        changed = {*(f"{name}{_BEHIND}" for name in inserted), *constants}
        new: dict[str, Any] = dict(constants)
        for name, function, inputs, _dead in self._calls:
            if name in changed or not changed.isdisjoint(inputs):
                changed.add(name)
                source = name.removesuffix(_BEHIND)
                chosen = inserted.get(source, function) if source != name else function
                new[name] = chosen(*[new[read] if read in new else values[read] for read in inputs])
        return self.returned({**values, **new})

    def returned(self, values: Values) -> Any:
        """The outputs, in the model's own structure."""
        return pytree.tree_unflatten([values[name] for name in self.graph.outputs], self.graph.structure)

    def _buffers_by_name(self) -> dict[str, Tensor]:
        return {name: self.get_buffer(f"constant_{i}") for i, name in enumerate(self._constants)}


_BEHIND = ":inserted"  # marks what an inserted function makes of a tensor

_Call: TypeAlias = tuple[str, Callable[..., Any], tuple[str, ...], tuple[str, ...]]


def _calls(graph: Graph, inserted: Mapping[str, tuple[Callable[[Tensor], Tensor], Sequence[str]]]) -> list[_Call]:
    """(name, function, names of its inputs, names that nobody reads any more) in order."""
    readers = {name: set(reading) for name, (_, reading) in inserted.items()}
    calls: list[tuple[str, Callable[..., Any], tuple[str, ...]]] = []

    def insert_behind(name: str) -> None:
        if name in inserted:
            calls.append((f"{name}{_BEHIND}", inserted[name][0], (name,)))

    insert_behind(INPUT)
    for node in graph.nodes:
        calls.append((node.name, node.operation, _inputs(node, readers)))
        insert_behind(node.name)
    kept, last = {*graph.outputs, *graph.constants}, {}
    for i, (name, _, inputs) in enumerate(calls):
        last.update(dict.fromkeys((name, *inputs), i))
    dead: dict[int, list[str]] = {}
    for name, i in last.items():
        if name not in kept:
            dead.setdefault(i, []).append(name)
    return [(*call, tuple(dead.get(i, ()))) for i, call in enumerate(calls)]


def _inputs(node: Node, readers: Mapping[str, set[str]]) -> tuple[str, ...]:
    return tuple(f"{name}{_BEHIND}" if node.name in readers.get(name, ()) else name for name in node.inputs)


@torch.no_grad()
def relative_difference(outputs: Any, expected: Any) -> float:
    """The largest ||y - y'|| / ||y'|| among the tensors of two results of a network, in float64; inf if their number,
    or a shape, differs."""
    ours, theirs = (pytree.tree_leaves(result) for result in (outputs, expected))
    if len(ours) != len(theirs) or any(a.shape != b.shape for a, b in zip(ours, theirs, strict=True)):
        return float("inf")
    norms = [((a.double() - b.double()).norm(), b.double().norm()) for a, b in zip(ours, theirs, strict=True)]
    return max((0.0 if off == 0 else float(off / size) for off, size in norms), default=0.0)
