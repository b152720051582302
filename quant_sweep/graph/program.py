"""From an exported program to a `Graph`: a walk that names tensors and computes constants.

Names of tensors are made from the path of the module that computes them, so that they mean something to the model's
author; what depends on no input is computed now and becomes a constant.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.export import ExportedProgram
from torch.export.graph_signature import OutputKind

from quant_sweep.errors import InputError
from quant_sweep.graph.aten import base_name, is_tensor, same_as_input, shape_of_one
from quant_sweep.graph.graph import INPUT, Graph, Node, pruned
from quant_sweep.graph.normalize import Constant, maker_of, recorded
from quant_sweep.graph.operations import BatchNorm, ChannelAffine, Convolution, Linear, Operation, Weighted

# -- its graph --


def graph_of(program: ExportedProgram, own: nn.Module, name: str) -> Graph:
    """The graph of an exported program without in-place operations.

    Args:
        own: the module that was exported.
        name: of the model, for messages.

    Raises:
        InputError: the program chooses between functions by values, or returns something else than tensors.
    """
    return _Reading(program, own, name).graph()


@final
class _Reading:
    """The walk over an exported program, and what it has read so far."""

    def __init__(self, program: ExportedProgram, own: nn.Module, name: str) -> None:
        self.program, self.model = program, name
        self.modules = dict(own.named_modules(remove_duplicate=False))
        self.known: dict[fx.Node, Constant] = {}
        self.same: dict[fx.Node, fx.Node] = {}  # identities, and what they pass on
        self.names: dict[fx.Node, str] = {}  # of tensors that are computed
        self.named: dict[str, Tensor] = {}  # the graph's constants
        self.nodes: list[Node] = []
        self.taken: set[str] = {INPUT}
        self.ends = _ends_of_calls(program.graph)

    def graph(self) -> Graph:
        for node in self.program.graph.nodes:
            if node.op == "placeholder":
                self._read_placeholder(node)
            elif node.op == "call_function":
                self._read(node)
        (given,) = (node for node, name in self.names.items() if name == INPUT)
        outputs, structure = self._outputs()
        of_layers = {node.inputs[1] for node in self.nodes if isinstance(node.operation, Weighted)}
        nodes = [self._with_float_weights(node, of_layers) for node in self.nodes]
        graph = Graph(tuple(nodes), self.named, outputs, structure, shape_of_one(given))
        return pruned(graph, graph.nodes, graph.constants, outputs)

    def _read_placeholder(self, node: fx.Node) -> None:
        signature = self.program.graph_signature
        in_model = {**signature.inputs_to_parameters, **signature.inputs_to_buffers}
        source = in_model.get(node.name, signature.inputs_to_lifted_tensor_constants.get(node.name))
        if source is not None:
            stored = self.program.state_dict.get(source, self.program.constants.get(source))
            assert isinstance(stored, Tensor)
            self.known[node] = Constant(_float32(stored.detach()), in_model.get(node.name, ""))
        elif is_tensor(node):
            node.meta["tensor_name"] = self.names[node] = INPUT

    def _read(self, node: fx.Node) -> None:
        passed_on = same_as_input(node)
        if passed_on is not None:
            self.same[node] = self.same.get(passed_on, passed_on)
            if self.same[node] in self.known:
                self.known[node] = self.known[self.same[node]]
            return
        if not isinstance(node.meta.get("val"), Tensor | tuple | list):
            return  # a size
        if any(source.op == "get_attr" for source in node.all_input_nodes):
            raise InputError(
                f"model={self.model}: cannot be captured: {base_name(node)} chooses between functions by values"
            )
        operation, sources = recorded(node, self.known)
        sources = tuple(self.same.get(source, source) if isinstance(source, fx.Node) else source for source in sources)
        inputs = [self.known.get(s, s) if isinstance(s, fx.Node) else s for s in sources]
        constants = [source for source in inputs if isinstance(source, Constant)]
        if len(constants) == len(inputs):
            self.known[node] = _computed(operation, constants)
            return
        name, path = self._unique(self._tensor_name(node)), _path(node)
        if isinstance(operation, BatchNorm) and getattr(self.modules.get(path), "momentum", 0.0) is None:
            operation = replace(operation, momentum=None)  # in evaluation mode torch.nn passes 0.0 on
        names = [
            self._named(source, path, name, _role(operation, position))
            if isinstance(source, Constant)
            else self.names[source]
            for position, source in enumerate(inputs)
        ]
        self.names[node] = name
        self.nodes.append(Node(name, operation, tuple(names), shape_of_one(node), path))

    # -- names --

    def _tensor_name(self, node: fx.Node) -> str:
        """After the module that makes the tensor, or the function inside it."""
        path = _path(node)
        if node in self.ends and _is_layer(self.modules.get(path)):
            return path
        several = "" if is_tensor(node) else "tensors"  # the plain name is for the one that may be read of them
        return ".".join(part for part in (path, base_name(maker_of(node)), several) if part)

    def _unique(self, stem: str) -> str:
        """<stem>.output; further calls of the same module or function get _1, _2, ..."""
        stems = (f"{stem}_{i}" if i else stem for i in itertools.count())
        name = next(name for name in (f"{stem}.output" for stem in stems) if name not in self.taken)
        self.taken.add(name)
        return name

    def _named(self, constant: Constant, path: str, tensor: str, role: str) -> str:
        """The name of a constant that an operation in the module at `path` reads; it is the graph's from now on."""
        in_module = self._name_in_module(constant, path, role) if role else constant.parameter
        wanted = in_module or f"{tensor.removesuffix('.output')}.{role or 'constant'}"
        names = (wanted if not i else _numbered(wanted, i) for i in itertools.count())
        name = next(
            n for n in names if (_same(self.named[n], constant.value) if n in self.named else n not in self.taken)
        )
        self.taken.add(name)
        self.named[name] = constant.value.contiguous()
        return name

    def _with_float_weights(self, node: Node, of_layers: set[str]) -> Node:
        """The node, which reads weights of layers under other names unless it is a layer: those are not quantized."""
        if isinstance(node.operation, Weighted) or of_layers.isdisjoint(node.inputs):
            return node
        renamed = {}
        for name in of_layers.intersection(node.inputs):
            others = (_numbered(name, i) for i in itertools.count(1))
            value = self.named[name]
            renamed[name] = next(n for n in others if n not in self.taken)
            self.named[renamed[name]] = value
        return replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))

    def _name_in_module(self, constant: Constant, path: str, role: str) -> str:
        parameter = constant.parameter
        if parameter and parameter.rpartition(".")[0] == path:
            return parameter
        if isinstance(getattr(self.modules.get(path), role, None), Tensor):
            return ".".join(part for part in (path, role) if part)
        return parameter

    # -- outputs --

    def _outputs(self) -> tuple[tuple[str, ...], Any]:
        specs = self.program.graph_signature.output_specs
        (end,) = (node for node in self.program.graph.nodes if node.op == "output")
        returned = [arg for arg, spec in zip(end.args[0], specs, strict=True) if spec.kind is OutputKind.USER_OUTPUT]
        names = []
        for node in returned:
            node = self.same.get(node, node)
            if node not in self.names and node not in self.known:
                raise InputError(f"model={self.model}: returns something that is no tensor")
            names.append(self.names.get(node) or self._named(self.known[node], "", "returned", ""))
        return tuple(names), self.program.call_spec.out_spec


def _role(operation: Operation, position: int) -> str:
    """What the input of a layer at some position is called in torch's own layers; "" if it has no such name."""
    match operation:
        case Convolution() | Linear():
            return ("", "weight", "bias")[position]
        case BatchNorm():
            return ("", "weight", "bias", "running_mean", "running_var")[position]
        case ChannelAffine():
            return ("", "scale", "shift")[position]
        case _:
            return ""


def _float32(value: Tensor) -> Tensor:
    return value.float() if value.is_floating_point() else value


def _computed(operation: Operation, constants: Sequence[Constant]) -> Constant:
    made = operation(*[constant.value for constant in constants])
    parameters = {constant.parameter for constant in constants if constant.parameter}
    (parameter,) = parameters if len(parameters) == 1 else ("",)
    return Constant(_float32(made) if isinstance(made, Tensor) else made, parameter)


def _same(a: Tensor, b: Tensor) -> bool:
    return a is b or (a.dtype == b.dtype and torch.equal(a, b))


def _numbered(name: str, count: int) -> str:
    """conv.weight -> conv_1.weight; weight -> weight_1."""
    stem, dot, role = name.rpartition(".")
    return f"{stem}_{count}.{role}" if dot else f"{role}_{count}"


def _module_call(node: fx.Node) -> tuple[str, str]:
    """The innermost call of a module that a node belongs to, and the module's path."""
    stack = node.meta.get("nn_module_stack") or {}
    if not stack:
        return "", ""
    call, (path, _) = list(stack.items())[-1]
    return call, "" if path.startswith("_empty_nn_module_stack") else path.partition("@")[0]


def _path(node: fx.Node) -> str:
    return _module_call(node)[1]


def _ends_of_calls(graph: fx.Graph) -> set[fx.Node]:
    """The last tensor that each call of a module computes itself."""
    computed = (node for node in graph.nodes if node.op == "call_function" and is_tensor(node))
    return set({_module_call(node)[0]: node for node in computed if same_as_input(node) is None}.values())


def _is_layer(module: nn.Module | None) -> bool:
    """Whether a module is one of torch.nn's layers, or a kind of one; containers and a person's own modules are not."""
    kinds = [kind for kind in type(module).__mro__ if kind.__module__.startswith("torch.nn.modules")]
    return bool(kinds) and kinds[0] is not nn.Module and not kinds[0].__module__.endswith(".container")
