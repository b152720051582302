"""From a model to a graph of records: torch.export, evaluation mode, any number of images.

torch.export runs the model once on tensors without values and leaves a flat program of ATen's operators: no modules,
no Python control flow, every shape known. What becomes of it is held against the model.

Leaves out: several inputs (`models.packed` makes them one), control flow that depends on values, networks whose result
for one image depends on the other images of the batch.
"""

from __future__ import annotations

import copy
import inspect
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from quant_sweep.errors import InputError
from quant_sweep.graph.functional import functional, inlined
from quant_sweep.graph.graph import Graph
from quant_sweep.graph.interpret import Network, relative_difference
from quant_sweep.graph.program import graph_of
from quant_sweep.graph.trace import Calls, release_symbols, traced_for_many, traced_with_a_symbol

_MORE_CALLS = 100  # that a model may need for many images than for a few, before it takes each alone
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
    with torch.no_grad(), _Types() as types, Calls() as calls:
        outputs = _outputs(own, images[:_COMPARED], name)
    tolerance = max(_ROUNDING.get(dtype, _ROUNDING_FLOAT32) for dtype in {*types.seen, torch.float32})
    with torch.no_grad():
        _check_alone(own, images[:_COMPARED], name, tolerance)

        def held_against_the_model(program: ExportedProgram) -> Captured:
            program = functional(inlined(program))
            program.graph.eliminate_dead_code()  # indices of max-pooling that nobody reads
            captured = Captured(graph_of(program, own, name), name, images[:_COMPARED].float(), outputs, tolerance)
            release_symbols(program.graph)
            if tolerance > _ROUNDING_FLOAT32:  # the model's own rounding may hide what the graph's does not
                _check_alone(Network(captured.graph), captured.images, name, _ROUNDING_FLOAT32)
            captured.check(captured.graph, "the captured network")
            return captured

        with suppress(Exception):  # traced with a symbol, whatever is wrong is said better
            return held_against_the_model(traced_for_many(own, images, 2 * calls.count + _MORE_CALLS))
        own, images = _prepared(model, example)
        return held_against_the_model(_traced(own, images, name))


# -- the model --


def _check_inputs(model: nn.Module, name: str) -> None:
    parameters = inspect.signature(model.forward).parameters.values()
    needed = [
        p.name for p in parameters if p.default is p.empty and p.kind in {p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD}
    ]
    if len(needed) > 1:
        raise InputError(
            f"model={name}: has {len(needed)} inputs ({', '.join(needed)}); one batch is expected, see takes_packed"
        )


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


def _traced(own: nn.Module, images: Tensor, name: str) -> ExportedProgram:
    try:
        return traced_with_a_symbol(own, images)
    except Exception as error:
        raise InputError(
            f"model={name}: cannot be captured by torch.export: {_one_line(error)}; "
            "control flow that depends on the values of tensors, and sizes fixed to one batch, have to be rewritten"
        ) from error


def _one_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
