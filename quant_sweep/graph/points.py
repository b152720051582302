"""Where tensors are put on an integer grid.

`fusion` decides. In every mode each convolution and linear layer has its weight and its input on a grid; what a
layer reads through operations that only move values (max-pooling, flatten, zero padding, ...) is quantized where it
was made. Biases stay in float: they are added to the accumulator, where an engine may use 32 bits.

none          inputs of convolution, linear, activation and average pooling; a BatchNorm between them stays a float
              layer. Only these readers see the quantized tensor, a residual add reads the float one.
bn            BatchNorm folded. The output of each convolution and linear layer, and of each activation, too: a
              value is rounded before *and* after the activation.
conv_bn_relu  folded and fused. A layer's output is quantized once, after the residual add and the ReLU that can be
              done on its accumulator.

The output of the network is never quantized: logits are compared, and clipping them costs accuracy for nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from enum import Enum

from torch import fx, nn

from quant_sweep.graph.fold import fold_batch_norms
from quant_sweep.graph.operations import Operation, operation_of
from quant_sweep.graph.trace import trace


class Fusion(Enum):
    """Which quantization points exist; see the module's text."""

    none = "none"
    bn = "bn"
    conv_bn_relu = "conv_bn_relu"


@dataclass(frozen=True)
class ActivationPoint:
    """A tensor that is quantized while the network runs.

    Attributes:
        name: of the tensor, `input` or `<module>.output`.
        node: name of the graph node that makes it.
        readers: names of the nodes that see it quantized.
    """

    name: str
    node: str
    readers: tuple[str, ...]


@dataclass(frozen=True)
class WeightPoint:
    """A weight, quantized once.

    Attributes:
        name: `<module>.weight`.
        module: path of the convolution or linear layer; its output channels are axis 0 of the weight.
    """

    name: str
    module: str


@dataclass(frozen=True)
class QuantGraph:
    """A float network that knows its quantization points.

    Attributes:
        module: traced copy of the model in evaluation mode, BatchNorm folded unless fusion is none. Treat as frozen.
        fusion: which points were chosen.
        activations: in the order in which they are computed.
        weights: in the order in which they are first used.
    """

    module: fx.GraphModule
    fusion: Fusion
    activations: tuple[ActivationPoint, ...]
    weights: tuple[WeightPoint, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Names of all quantized tensors, unique."""
        return tuple(p.name for p in self.activations) + tuple(p.name for p in self.weights)


def quantizable(model: nn.Module, fusion: Fusion) -> QuantGraph:
    """Trace, fold and find the quantization points. `model` is not changed.

    Raises:
        InputError: the model cannot be traced, or calls a layer as a function.
    """
    traced = trace(model)
    if fusion is not Fusion.none:
        fold_batch_norms(traced)
    modules = dict(traced.named_modules())
    operations = {node: operation_of(node, modules) for node in traced.graph.nodes}
    readers = _readers_none(operations) if fusion is Fusion.none else _readers_fused(operations, fusion)
    names = tensor_names(traced.graph)
    order = [node for node in operations if node in readers]
    layers = dict.fromkeys(str(node.target) for node, op in operations.items() if op is Operation.WEIGHTED)
    return QuantGraph(
        traced,
        fusion,
        tuple(ActivationPoint(names[n], n.name, tuple(r.name for r in readers[n])) for n in order),
        tuple(WeightPoint(f"{layer}.weight", layer) for layer in layers),
    )


def after_clamp(graph: QuantGraph) -> dict[str, str]:
    """The tensors that are quantized before and after a clamp: those before, by name -> those that it makes of them.

    A tensor that anybody else reads on its grid is not among them.
    """
    modules = dict(graph.module.named_modules())
    clamps = {node.name for node in graph.module.graph.nodes if operation_of(node, modules) is Operation.CLAMP}
    names = {point.node: point.name for point in graph.activations if point.node in clamps}
    return {
        point.name: names[point.readers[0]]
        for point in graph.activations
        if len(point.readers) == 1 and point.readers[0] in names
    }


Operations = dict[fx.Node, Operation]
Readers = dict[fx.Node, list[fx.Node]]


def _readers_none(operations: Operations) -> Readers:
    reads_quantized = {Operation.WEIGHTED, Operation.CLAMP, Operation.ACTIVATION, Operation.AVERAGE}
    readers: Readers = {}
    for node, operation in operations.items():
        if operation in reads_quantized:
            source, first_reader = _source(_input(node), node, operations)
            found = readers.setdefault(source, [])
            if first_reader not in found:
                found.append(first_reader)
    return readers


def _readers_fused(operations: Operations, fusion: Fusion) -> Readers:
    chosen: set[fx.Node] = set()
    for node, operation in operations.items():
        if operation is Operation.WEIGHTED:
            chosen.add(_source(_input(node), node, operations)[0])
            fused = [node] if fusion is Fusion.bn else fused_operations(node, operations)
            chosen.add(fused[-1])
            if len(fused) > 1 and operations[fused[1]] is Operation.ADD:
                other = next(arg for arg in fused[1].all_input_nodes if arg is not node)
                chosen.add(_source(other, fused[1], operations)[0])
        elif fusion is Fusion.bn and operation in {Operation.CLAMP, Operation.ACTIVATION}:
            chosen.add(node)
    readers = {node: [user for user in node.users if not leads_only_out(user, operations)] for node in chosen}
    return {node: found for node, found in readers.items() if found}


def fused_operations(layer: fx.Node, operations: Operations) -> list[fx.Node]:
    """The layer and what is done on its accumulator before it is rounded: [layer], then an add, then a clamp.

    Each link must be the only reader of the one before. Of two layers that meet in one add, only the first operand
    takes the add; the other is quantized before.
    """
    chain = [layer]
    for wanted in (Operation.ADD, Operation.CLAMP):
        reader = _only_reader(chain[-1])
        if reader is not None and operations[reader] is wanted:
            if wanted is Operation.ADD and _accumulator_of_add(reader, operations) is not layer:
                break
            chain.append(reader)
    return chain


def _accumulator_of_add(add: fx.Node, operations: Operations) -> fx.Node | None:
    """The operand that the other one is added to before rounding: the first that is a layer with no other reader."""
    operands = [arg for arg in add.args[:2] if isinstance(arg, fx.Node)]
    if operands[0] is operands[1]:
        return None
    layers = (arg for arg in operands if operations[arg] is Operation.WEIGHTED and _only_reader(arg) is add)
    return next(layers, None)


def _only_reader(node: fx.Node) -> fx.Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _input(node: fx.Node) -> fx.Node:
    return node.all_input_nodes[0]


def _source(node: fx.Node, reader: fx.Node, operations: Operations) -> tuple[fx.Node, fx.Node]:
    """Where the values that `reader` reads from `node` were made, and who reads them there."""
    while operations[node] is Operation.KEEP:
        node, reader = _input(node), node
    return node, reader


def leads_only_out(reader: fx.Node, operations: Operations) -> bool:
    """Whether what `reader` reads goes nowhere but to the output of the network."""
    if reader.op == "output":
        return True
    return operations[reader] is Operation.KEEP and all(leads_only_out(user, operations) for user in reader.users)


def tensor_names(graph: fx.Graph) -> dict[fx.Node, str]:
    """Names after the module that makes a tensor; further calls of the same module or function get _1, _2, ..."""
    names: dict[fx.Node, str] = {}
    taken: set[str] = set()
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = "input"
            continue
        base = str(node.target) if node.op == "call_module" else _scoped_function_name(node)
        calls = (f"{base}_{i}.output" if i else f"{base}.output" for i in itertools.count())
        names[node] = next(name for name in calls if name not in taken)  # a module may itself be called relu_1
        taken.add(names[node])
    return names


def _scoped_function_name(node: fx.Node) -> str:
    function = str(getattr(node.target, "__name__", node.target))
    scopes = [path for path, _ in node.meta.get("nn_module_stack", {}).values()]
    return ".".join([*scopes[-1:], function])
