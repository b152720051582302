"""In which order the nodes of a network are computed while its layers are fitted: what a layer's output is added to
comes before the layer, for the layer is to make up for it."""

from __future__ import annotations

from collections.abc import Iterator

from quant_sweep.graph import Graph, Node
from quant_sweep.graph.operations import Add, Weighted
from quant_sweep.graph.quantizers import only_reader, other_operand


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
