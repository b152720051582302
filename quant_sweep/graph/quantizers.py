"""Where tensors are put on an integer grid: the quantizers of a graph.

`fusion` decides. In every mode each convolution and linear layer has its weight and its input on a grid; what a
layer reads through operations that only move values (max-pooling, flatten, zero padding, ...) is quantized where it
was made. Biases stay in float: they are added to the accumulator, where an engine may use 32 bits.

none          inputs of convolution, linear, activation and average pooling; a BatchNorm between them stays in float.
              Only these readers see the quantized tensor, a residual add reads the float one.
bn            BatchNorm folded. The output of each convolution and linear layer, and of each activation, too: a
              value is rounded before *and* after the activation.
conv_bn_relu  folded and fused. A layer's output is quantized once, after the residual add and the ReLU that can be
              done on its accumulator, and only for readers that lead to a layer through operations that integers
              can do. Others (BatchNorm, layer norm, attention, products) read it in float: codes are of no use to them.

The outputs of the network, and what they alone go through (softmax, division by a constant, reshape), are never
quantized: logits are compared, and clipping them costs accuracy for nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import final, get_args

from torch import Tensor, nn

from quant_sweep.graph.capture import Captured, capture_float
from quant_sweep.graph.fold import fold_batch_norms
from quant_sweep.graph.fusion import Fusion
from quant_sweep.graph.graph import INPUT, Graph, Node
from quant_sweep.graph.operations import (
    Activation,
    Add,
    Average,
    ChannelAffine,
    Clamp,
    Concatenate,
    Keeps,
    Operation,
    Other,
    Weighted,
)


@final
@dataclass(frozen=True)
class ActivationQuantizer:
    """Quantizes a tensor while the network runs.

    Attributes:
        name: of the tensor: `input`, or `<module>.output`.
        readers: names of the nodes that see it quantized.
    """

    name: str
    readers: tuple[str, ...]


@final
@dataclass(frozen=True)
class WeightQuantizer:
    """Quantizes a weight, once.

    Attributes:
        name: of the weight, `<module>.weight`; its output channels are axis 0.
        layers: names of the nodes that multiply by it; several if a layer is called several times.
    """

    name: str
    layers: tuple[str, ...]


@final
@dataclass(frozen=True, eq=False)
class QuantGraph:
    """A float network that knows its quantizers.

    Attributes:
        graph: BatchNorm folded unless fusion is none.
        fusion: which quantizers were chosen.
        activations: in the order in which they are computed.
        weights: in the order in which they are first used.
    """

    graph: Graph
    fusion: Fusion
    activations: tuple[ActivationQuantizer, ...]
    weights: tuple[WeightQuantizer, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all quantized tensors, unique."""
        return tuple(q.name for q in self.activations) + tuple(q.name for q in self.weights)

    @cached_property
    def float_weights(self) -> Mapping[str, str]:
        """Weights that stay in float, by name, and why: constants with more than one axis longer than 1 that something
        else than a convolution or linear layer reads."""
        quantized = {q.name for q in self.weights}
        found = {}
        for name, value in self.graph.constants.items():
            if value.is_floating_point() and sum(size > 1 for size in value.shape) > 1 and name not in quantized:
                readers = ", ".join(
                    f"{reader.name} ({kind_of(reader.operation)})" for reader in self.graph.readers[name]
                )
                found[name] = f"read by {readers or 'nobody, it is returned'}, which has no integer form"
        return found


def capture(model: nn.Module, example: Tensor, fusion: Fusion) -> QuantGraph:
    """Capture a model, fold its BatchNorms and find its quantizers. `model` is not changed.

    Args:
        model: anything that torch.export captures, of one input; evaluated, and computed in float32.
        example: one batch of inputs, (n, ...). It gives the shape of an input, and the graph is held against the model
            on its first images.
        fusion: which quantizers there are.

    Raises:
        InputError: as `capture_float`.
    """
    return with_quantizers(capture_float(model, example), fusion)


def with_quantizers(captured: Captured, fusion: Fusion) -> QuantGraph:
    """A captured network, folded as `fusion` says, with its quantizers.

    Raises:
        InputError: the folded network parts from the model by more than float rounding.
    """
    graph = captured.graph
    if fusion is not Fusion.none:
        graph = fold_batch_norms(graph)
        captured.check(graph, "the network with BatchNorm folded")
    readers = _readers_none(graph) if fusion is Fusion.none else _readers_fused(graph, fusion)
    order = [name for name in (INPUT, *graph.node) if readers.get(name)]
    layers: dict[str, list[str]] = {}
    for node in graph.nodes:
        if isinstance(node.operation, Weighted):
            layers.setdefault(node.inputs[1], []).append(node.name)
    return QuantGraph(
        graph,
        fusion,
        tuple(ActivationQuantizer(name, tuple(readers[name])) for name in order),
        tuple(WeightQuantizer(weight, tuple(nodes)) for weight, nodes in layers.items()),
    )


def kind_of(operation: Operation) -> str:
    """What an operation is called in messages: its record, or the function that a record without arguments calls."""
    if isinstance(operation, Other | Activation):
        schema = getattr(operation.call.function, "_schema", None)
        return str(schema.name).partition("::")[2] if schema else str(getattr(operation.call.function, "__name__", "?"))
    return type(operation).__name__


def after_clamp(graph: QuantGraph) -> dict[str, str]:
    """The tensors that are quantized before and after a clamp: those before, by name -> those that it makes of them.

    A tensor that anybody else reads on its grid is not among them.
    """
    clamped = {q.name for q in graph.activations if q.name != INPUT and _is(graph.graph.node[q.name], Clamp)}
    return {q.name: q.readers[0] for q in graph.activations if len(q.readers) == 1 and q.readers[0] in clamped}


# -- which readers see which tensor quantized --

Readers = dict[str, list[str]]  # by the name of the tensor


def _is(node: Node, *kinds: type[Operation]) -> bool:
    return isinstance(node.operation, kinds)


def _readers_none(graph: Graph) -> Readers:
    readers: Readers = {}
    for node in graph.nodes:
        if isinstance(node.operation, Weighted | Average | Clamp | Activation):
            if isinstance(node.operation, Clamp | Activation) and leads_only_out(graph, node):
                continue
            source, first_reader = source_of(graph, node.inputs[0], node.name)
            found = readers.setdefault(source, [])
            if first_reader not in found:
                found.append(first_reader)
    return readers


def _readers_fused(graph: Graph, fusion: Fusion) -> Readers:
    chosen: set[str] = set()
    for node in graph.nodes:
        if isinstance(node.operation, Weighted):
            chosen.add(source_of(graph, node.inputs[0], node.name)[0])
            if fusion is Fusion.bn:
                chosen.add(node.name)
                continue
            fused = fused_operations(graph, node)
            if _ends_in_a_layer(graph, fused[-1].name):
                chosen.add(fused[-1].name)
                if len(fused) > 1 and _is(fused[1], Add):
                    chosen.add(source_of(graph, other_operand(fused[1], node.name), fused[1].name)[0])
        elif fusion is Fusion.bn and isinstance(node.operation, Clamp | Activation):
            chosen.add(node.name)
    computes_on_codes = _continues_to_a_layer if fusion is Fusion.conv_bn_relu else _stays_inside
    return {name: [r.name for r in graph.readers[name] if computes_on_codes(graph, r)] for name in chosen}


def _stays_inside(graph: Graph, reader: Node) -> bool:
    return not leads_only_out(graph, reader)


def fused_operations(graph: Graph, layer: Node) -> list[Node]:
    """The layer and what is done on its accumulator before it is rounded: [layer], then an add, then a clamp.

    Each link must be the only reader of the one before. Of two layers that meet in one add, only the first operand
    takes the add; the other is quantized before.
    """
    chain = [layer]
    for wanted in (Add, Clamp):
        reader = only_reader(graph, chain[-1].name)
        if reader is not None and _is(reader, wanted):
            if wanted is Add and _accumulator_of_add(graph, reader) != layer.name:
                break
            chain.append(reader)
    return chain


def _accumulator_of_add(graph: Graph, add: Node) -> str | None:
    """The operand that the other one is added to before rounding: the first that is a layer with no other reader."""
    if add.inputs[0] == add.inputs[1]:
        return None
    layers = (name for name in add.inputs if _is_layer(graph, name) and only_reader(graph, name) is add)
    return next(layers, None)


def _is_layer(graph: Graph, name: str) -> bool:
    return name in graph.node and isinstance(graph.node[name].operation, Weighted)


def only_reader(graph: Graph, name: str) -> Node | None:
    """The node that reads a tensor, if nobody else does, inside the network or outside."""
    readers = graph.readers[name]
    return readers[0] if len(readers) == 1 and name not in graph.outputs else None


def other_operand(add: Node, one: str) -> str:
    """What is added to the operand `one`."""
    return next(name for name in add.inputs if name != one)


def source_of(graph: Graph, name: str, reader: str) -> tuple[str, str]:
    """The tensor where the values that `reader` reads as `name` were made, and who reads them there."""
    while name in graph.node and isinstance(graph.node[name].operation, Keeps):
        node = graph.node[name]
        if node.inputs[0] in graph.constants:
            break
        name, reader = node.inputs[0], node.name
    return name, reader


def _ends_in_a_layer(graph: Graph, name: str) -> bool:
    """Whether codes of a tensor would lead to a layer, through operations that integers can do."""
    return any(_continues_to_a_layer(graph, reader) for reader in graph.readers[name])


def _continues_to_a_layer(graph: Graph, node: Node) -> bool:
    if isinstance(node.operation, Weighted):
        return True
    if isinstance(node.operation, Add):
        return all(_can_lie_on_a_grid(graph, name) for name in node.inputs) and _ends_in_a_layer(graph, node.name)
    continues = isinstance(node.operation, Keeps | Average | Clamp | Activation | Concatenate)
    return continues and _ends_in_a_layer(graph, node.name)


def _can_lie_on_a_grid(graph: Graph, name: str) -> bool:
    """Whether what an add reads is, or can be, rounded for somebody else than the add."""
    source, _ = source_of(graph, name, "")
    if source == INPUT or any(_reads_into_a_layer(graph, reader) for reader in graph.readers[source]):
        return True
    made_by = graph.node[source].operation
    if isinstance(made_by, Add):
        return all(_can_lie_on_a_grid(graph, operand) for operand in graph.node[source].inputs)
    return isinstance(made_by, Weighted | Average | Clamp | Activation)


def _reads_into_a_layer(graph: Graph, node: Node) -> bool:
    """Whether a node is a layer, or moves values to one."""
    if isinstance(node.operation, Weighted):
        return True
    return isinstance(node.operation, Keeps) and any(_reads_into_a_layer(graph, r) for r in graph.readers[node.name])


def leads_only_out(graph: Graph, node: Node) -> bool:
    """Whether what a node makes goes nowhere but to the outputs of the network, and is made of one tensor alone."""
    behind: dict[str, Node] = {}
    waiting = [node]
    while waiting:
        reader = waiting.pop()
        if not _is(reader, *_ON_THE_WAY_OUT):
            return False
        if reader.name not in behind:
            behind[reader.name] = reader
            waiting += graph.readers[reader.name]
    return _come_from_one_tensor(graph, {s for n in behind.values() for s in graph.computed_inputs(n)} - set(behind))


_ON_THE_WAY_OUT = (*get_args(Keeps), Clamp, Activation, ChannelAffine, Other)


def _come_from_one_tensor(graph: Graph, sources: set[str]) -> bool:
    """Whether tensors are one, or made of one by operations that could stand behind the logits."""
    order = {name: position for position, name in enumerate(graph.node)}
    while len(sources) > 1:
        latest = max(sources, key=lambda name: order.get(name, -1))
        if not _is(graph.node[latest], *_ON_THE_WAY_OUT):
            return False
        sources = sources - {latest} | set(graph.computed_inputs(graph.node[latest]))
    return len(sources) == 1
