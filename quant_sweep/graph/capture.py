"""From a model to a graph of records: torch.export, evaluation mode, any number of images.

torch.export runs the model once on tensors without values and leaves a flat program of ATen's operators: no modules,
no Python control flow, every shape known. Here it becomes a `Graph`. Names of tensors are made from the path of the
module that computes them, so that they mean something to the model's author; what depends on no input is computed now
and becomes a constant; weights get their output channels on axis 0.

Leaves out: several inputs, control flow that depends on values, networks whose result for one image depends on the
other images of the batch.
"""

from __future__ import annotations

import copy
import inspect
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch.export import Dim, ExportedProgram, export
from torch.export.graph_signature import OutputKind
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from quant_sweep.errors import InputError
from quant_sweep.graph.functional import functional, inlined
from quant_sweep.graph.graph import INPUT, Graph, Node, pruned
from quant_sweep.graph.interpret import Network, relative_difference
from quant_sweep.graph.normalize import Constant, base_name, is_tensor, maker_of, recorded, same_as_input, shape_of_one
from quant_sweep.graph.operations import BatchNorm, Convolution, Linear, Operation, Weighted

_MOST_IMAGES = 4096  # of a batch, as torch.export wants to know it; nothing here depends on it
_COMPARED = 4  # images on which a graph is held against its model
# Relative differences that rounding may leave: of the model's own numbers, and of a float32 network.
_ROUNDING = {torch.float16: 2e-2, torch.bfloat16: 1e-1}
_ROUNDING_FLOAT32 = 1e-4
_MOST_ROUNDING = 1e-2  # however much a network amplifies it


@final
@dataclass(frozen=True, eq=False)
class Captured:
    """A model as a graph, and what the model itself makes of a few images.

    Attributes:
        graph: the float network.
        model: name of the model's class, for messages.
        images: float32 (n, ...), n <= 4.
        outputs: what the model returned for them.
        tolerance: relative difference that float rounding may leave.
    """

    graph: Graph
    model: str
    images: Tensor
    outputs: Any
    tolerance: float

    @torch.no_grad()
    def check(self, graph: Graph, what: str) -> None:
        """Hold a graph against the model.

        Raises:
            InputError: they part by more than float rounding.
        """
        apart = relative_difference(Network(graph)(self.images), self.outputs)
        if apart <= self.tolerance:
            return
        explained = max(self.tolerance, min(self._amplified_rounding(), _MOST_ROUNDING))
        if not apart <= explained:
            raise InputError(
                f"model={self.model}: {what} parts from the model by {apart:.2g} (relative) on {len(self.images)} "
                f"images, where float rounding explains {explained:.2g}; this network cannot be quantized faithfully"
            )

    def _amplified_rounding(self) -> float:
        """What ten times a change of the images by a millionth does to the outputs: deep networks amplify rounding."""
        noise = torch.randn(self.images.shape, generator=torch.Generator().manual_seed(0))
        moved = Network(self.graph)(self.images + 1e-6 * self.images.std() * noise)
        return 10 * relative_difference(moved, self.outputs)


def capture_float(model: nn.Module, example: Tensor) -> Captured:
    """The float network that `model` computes in evaluation mode; `model` is not changed.

    Args:
        example: one batch of inputs, (n, ...), n >= 1; gives the shape of an input and is what graph and model are
            compared on.

    Raises:
        InputError: the model cannot be captured, takes more than one input, returns something else than tensors, its
            result for an image depends on the other images, or the graph does not compute what the model does.
    """
    name = type(model).__name__
    _check_inputs(model, name)
    own, images = _prepared(model, example)
    with torch.no_grad(), _Types() as types:
        outputs = _outputs(own, images[:_COMPARED], name)
    tolerance = max(_ROUNDING.get(dtype, _ROUNDING_FLOAT32) for dtype in {*types.seen, torch.float32})
    with torch.no_grad():
        _check_alone(own, images[:_COMPARED], name, tolerance)
        program = functional(inlined(_exported(own, images, name)))
        program.graph.eliminate_dead_code()  # indices of max-pooling that nobody reads
        captured = Captured(_graph_of(program, own, name), name, images[:_COMPARED].float(), outputs, tolerance)
        if tolerance > _ROUNDING_FLOAT32:  # the model's own rounding may hide what the graph's does not
            _check_alone(Network(captured.graph), captured.images, name, _ROUNDING_FLOAT32)
    captured.check(captured.graph, "the captured network")
    return captured


# -- the model --


def _check_inputs(model: nn.Module, name: str) -> None:
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}
    ]
    if len(needed) > 1:
        raise InputError(f"model={name}: has {len(needed)} inputs ({', '.join(needed)}); one batch is expected")


def _prepared(model: nn.Module, example: Tensor) -> tuple[nn.Module, Tensor]:
    """A copy in evaluation mode on the CPU, and at least two different images in the numbers that it computes with."""
    own = copy.deepcopy(model, _copies_of_computed_tensors(model)).cpu().eval().requires_grad_(False)
    floats = [tensor.dtype for tensor in own.parameters() if tensor.is_floating_point()]
    images = example.detach().cpu().contiguous()
    if len(images) == 1:
        images = torch.cat([images, images.flip(-1) * 0.5])
    images = images.float() if images.is_floating_point() else images
    if floats and floats[0] != torch.float32 and images.is_floating_point():
        try:
            with torch.no_grad():
                own(images[:1].to(floats[0]))
            return own, images.to(floats[0])
        except RuntimeError:  # the CPU lacks an operation in these numbers
            return own.float(), images
    return own, images


def _copies_of_computed_tensors(model: nn.Module) -> dict[int, Any]:
    """Copies of attributes that PyTorch would not copy: tensors that were computed from parameters, as weight_norm
    keeps them."""
    attributes = (value for module in model.modules() for value in vars(module).values())
    return {id(t): t.detach().clone() for t in attributes if isinstance(t, Tensor) and not t.is_leaf}


@final
class _Types(TorchDispatchMode):
    """Notes in which numbers a model computes."""

    supports_higher_order_operators = True

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: set[torch.dtype] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.seen.update(leaf.dtype for leaf in pytree.tree_leaves(result) if isinstance(leaf, Tensor))
        return result


def _outputs(own: nn.Module, images: Tensor, name: str) -> Any:
    """What the model makes of a batch: tensors with a row for each image."""
    outputs = _run(own, images, name)
    for leaf in pytree.tree_leaves(outputs):
        if not isinstance(leaf, Tensor):
            raise InputError(f"model={name}: returns {type(leaf).__name__}, where tensors are expected")
        if leaf.dim() == 0 or len(leaf) != len(images):
            raise InputError(
                f"model={name}: returns a tensor of shape {tuple(leaf.shape)} for {len(images)} images; "
                "axis 0 has to count the images"
            )
    _check_finite(outputs, own, name)
    return outputs


def _run(network: nn.Module, images: Tensor, name: str) -> Any:
    try:
        return network(images.clone())  # which the model may write over
    except Exception as error:
        raise InputError(
            f"model={name}: cannot compute inputs of shape {tuple(images.shape)}: {_one_line(error)}"
        ) from error


def _check_alone(network: nn.Module, images: Tensor, name: str, tolerance: float) -> None:
    """Refuse a network whose result for an image depends on the other images of the batch, or on chance."""
    stranger = torch.randn(images[:1].shape, generator=torch.Generator().manual_seed(0)).to(images.dtype)
    alone = _run(network, images[:1], name)
    for batch in (images, torch.cat([images[:1], stranger])):
        first = pytree.tree_map(lambda y: y[:1], _run(network, batch, name))
        if not relative_difference(first, alone) <= 10 * tolerance:
            raise InputError(
                f"model={name}: its result for an image depends on the other images of the batch, or on chance; "
                "quantization needs a network that sees each image alone (in evaluation mode)"
            )


def _check_finite(outputs: Any, own: nn.Module, name: str) -> None:
    if all(bool(leaf.isfinite().all()) for leaf in pytree.tree_leaves(outputs)):
        return
    unsound = next((path for path, p in own.named_parameters() if not bool(p.isfinite().all())), None)
    if unsound is not None:
        raise InputError(f"model={name}: {unsound} holds NaN or infinity; use a sound checkpoint")
    raise InputError(f"model={name}: its result for the first images holds NaN or infinity")


def _exported(own: nn.Module, images: Tensor, name: str) -> ExportedProgram:
    of_batch: Any = {0: Dim("images", min=1, max=_MOST_IMAGES)}
    (first, *_) = inspect.signature(own.forward).parameters.values()
    shapes = ((of_batch,),) if first.kind is first.VAR_POSITIONAL else (of_batch,)
    try:
        return export(own, (images[:2],), dynamic_shapes=shapes, strict=False)
    except Exception as error:
        raise InputError(
            f"model={name}: cannot be captured by torch.export: {_one_line(error)}; "
            "control flow that depends on the values of tensors, and sizes fixed to one batch, have to be rewritten"
        ) from error


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__


# -- its graph --


def _graph_of(program: ExportedProgram, own: nn.Module, name: str) -> Graph:
    return _Reading(program, own, name).graph()


@final
class _Reading:
    """The walk over an exported program, and what it has read so far."""

    def __init__(self, program: ExportedProgram, own: nn.Module, name: str) -> None:
        self.program, self.model = program, name
        self.modules = dict(own.named_modules())
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
            renamed[name] = next(n for n in others if n not in self.taken or self.named.get(n) is value)
            self.taken.add(renamed[name])
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
