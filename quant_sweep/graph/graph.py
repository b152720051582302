"""A float network as a list of records, in the order in which they are computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final

from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.graph.operations import Operation

INPUT = "input"


@final
@dataclass(frozen=True)
class Node:
    """One operation of a network, called by the tensor that it makes.

    Attributes:
        name: of the tensor: `<module>.output`, or `<module>.<function>.output` inside a module.
        operation: what is computed.
        inputs: names of the tensors that it reads: of nodes, of constants, or INPUT.
        shape: of the tensor for one image, so that axis 0 is 1 where it counts the images; () if it is no tensor.
        module: path of the innermost module that computes it; "" is the network itself.
    """

    name: str
    operation: Operation
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    module: str


@final
@dataclass(frozen=True, eq=False)
class Graph:
    """A float network.

    Attributes:
        nodes: in the order in which they are computed.
        constants: weights and whatever else does not depend on the input, float32 or of whole numbers, by name.
        outputs: names of the tensors that it returns.
        structure: how they are returned (a tensor, a tuple, a dict, ...).
        input_shape: of one image, axis 0 being 1.
    """

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    outputs: tuple[str, ...]
    structure: pytree.TreeSpec
    input_shape: tuple[int, ...]

    @cached_property
    def node(self) -> Mapping[str, Node]:
        """The nodes by name."""
        return {node.name: node for node in self.nodes}

    @cached_property
    def readers(self) -> Mapping[str, tuple[Node, ...]]:
        """Who reads each tensor, by its name; the network's outputs have their readers outside."""
        readers: dict[str, list[Node]] = {name: [] for name in (INPUT, *self.constants, *self.node)}
        for node in self.nodes:
            for name in dict.fromkeys(node.inputs):
                readers[name].append(node)
        return {name: tuple(found) for name, found in readers.items()}

    def computed_inputs(self, node: Node) -> tuple[str, ...]:
        """What a node reads that is no constant."""
        return tuple(name for name in node.inputs if name not in self.constants)

    @property
    def largest_bytes_an_image(self) -> int:
        """Of the tensors that it makes, float32."""
        shapes = (self.input_shape, *(node.shape for node in self.nodes))
        return max(4 * _product(shape) for shape in shapes)

    def described(self) -> str:
        """What it computes, its constants aside."""
        lines = [f"{node.name} = {node.operation}({', '.join(node.inputs)})" for node in self.nodes]
        return "\n".join([*lines, f"return {self.outputs} as {self.structure}"])


def _product(shape: tuple[int, ...]) -> int:
    result = 1
    for size in shape:
        result *= size
    return result


def pruned(graph: Graph, nodes: tuple[Node, ...], constants: Mapping[str, Tensor], outputs: tuple[str, ...]) -> Graph:
    """The graph with other nodes, without what nobody reads."""
    needed, kept = set(outputs), list[Node]()
    for node in reversed(nodes):
        if node.name in needed:
            kept.append(node)
            needed.update(node.inputs)
    used = {name: tensor for name, tensor in constants.items() if name in needed}
    return Graph(tuple(reversed(kept)), used, outputs, graph.structure, graph.input_shape)
