"""From ATen's operators to the vocabulary: every spelling that PyTorch has of an operation becomes one record.

Arguments are read by the names that ATen's schemas give them, defaults included, and nowhere else. A spelling, or a
use of it, that is not known here is `Other`.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
from torch import Tensor, fx
from torch.utils import _pytree as pytree

from quant_sweep.graph.aten import (
    RESHAPES,
    Arguments,
    arguments_of,
    base_name,
    is_aten,
    is_float,
    is_tensor,
    per_axis,
    shape_of_one,
    times_images,
)
from quant_sweep.graph.graph import INPUT
from quant_sweep.graph.operations import (
    Activation,
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    Add,
    AveragePool,
    BatchNorm,
    Call,
    ChannelAffine,
    Clamp,
    Concatenate,
    Convolution,
    Images,
    Linear,
    MaxPool,
    Mean,
    Move,
    Operation,
    Other,
    Pad,
    Reshape,
    SameDevice,
    Slot,
    transposed_layout,
)


@final
@dataclass(frozen=True, eq=False)
class Constant:
    """A value that does not depend on the network's input.

    Attributes:
        parameter: name of the one parameter or buffer of the model that it was made of; "" if there are more, or none.
    """

    value: Tensor
    parameter: str


Constants: TypeAlias = Mapping[fx.Node, Constant]
Source: TypeAlias = fx.Node | Constant
Recorded: TypeAlias = tuple[Operation, tuple[Source, ...]]  # a record and its inputs

_ACTIVATIONS = {
    "celu", "elu", "gelu", "hardshrink", "hardsigmoid", "hardswish", "leaky_relu", "log_sigmoid", "mish", "prelu",
    "selu", "sigmoid", "silu", "softplus", "softshrink", "tanh",
}  # fmt: skip
_MOVES = {
    "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis", "t", "numpy_T", "mT", "adjoint", "slice",
    "narrow", "select", "expand", "expand_as", "repeat", "repeat_interleave", "tile", "flip", "roll", "rot90",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d", "upsample_nearest1d", "upsample_nearest2d",
    "upsample_nearest3d", "index_select", "index", "unfold",
}  # fmt: skip


def recorded(node: fx.Node, constants: Constants) -> Recorded:
    """The record of a node and the nodes of its inputs.

    Args:
        node: calls a function and is not `same_as_input`.
        constants: nodes whose value does not depend on the network's input.

    Raises:
        InputError: a size is not in proportion to the number of images.
    """
    if node.target is operator.getitem:
        return _item(node, constants)
    record = _RECORDS.get(base_name(node)) if is_aten(node.target) else None
    if record is not None and _computes_float(node):
        found = record(node, arguments_of(node), constants)
        if found is not None:
            return found
    return _called(Other, node)


def _computes_float(node: fx.Node) -> bool:
    return is_tensor(node) and is_float(node)


# -- calls as they are --


def _called(kind: Callable[[Call], Operation], node: fx.Node) -> Recorded:
    """A record of the very call, whose sizes may depend on the number of images."""
    inputs = [source for source in node.all_input_nodes if not _is_size(source)]
    grows = any(times_images(size)[1] for size in _sizes_in((*node.args, *node.kwargs.values())))
    counted = next((i for i, source in enumerate(inputs) if grows and _has_one_row_an_image(source)), len(inputs))
    images = (_network_input(node.graph),) if grows and counted == len(inputs) else ()

    def template(argument: Any) -> Any:
        match argument:
            case int() | fx.Node() if _is_size(argument):
                times, of_images = times_images(_size(argument))
                return Images(times, counted) if of_images else times
            case fx.Node():
                return Slot(inputs.index(argument))
            case list() | tuple():
                return tuple(template(part) for part in argument)
            case torch.device():
                return SameDevice() if inputs or grows else argument
            case torch.dtype() if argument.is_floating_point:
                return torch.float32
            case _:
                return argument

    target = node.target
    assert callable(target)
    args = tuple(template(arg) for arg in node.args)
    kwargs = tuple((name, template(value)) for name, value in node.kwargs.items())
    return kind(Call(_pure(target), args, kwargs)), (*inputs, *images)


def _sizes_in(arguments: Any) -> Iterator[Any]:
    """The whole numbers among the arguments of a call, symbolic ones too."""
    for argument in pytree.tree_leaves(arguments):
        if _is_size(argument):
            yield _size(argument)


def _is_size(argument: Any) -> bool:
    return isinstance(_size(argument), int | torch.SymInt)


def _size(argument: Any) -> Any:
    return argument.meta.get("val") if isinstance(argument, fx.Node) else argument


def _has_one_row_an_image(node: fx.Node) -> bool:
    """Whether axis 0 of a tensor counts the images."""
    return is_tensor(node) and node.meta["val"].dim() > 0 and times_images(node.meta["val"].shape[0]) == (1, True)


def _pure(function: Callable[..., Any]) -> Callable[..., Any]:
    """The form of an operator that does not write over its input, and takes it in any layout."""
    if not is_aten(function):
        return function
    schema = function._schema  # type: ignore[attr-defined]
    name = schema.name.partition("::")[2]
    if name in {"view", "_unsafe_view"} and not schema.overload_name:
        return torch.ops.aten.reshape.default
    if name == "as_strided":
        return _as_strided
    if not schema.is_mutable:
        return function
    packet = getattr(torch.ops.aten, name.removesuffix("_"))
    return getattr(packet, schema.overload_name or "default")  # type: ignore[no-any-return]


def _as_strided(x: Tensor, *arguments: Any) -> Tensor:
    """As the exported program reads its input's memory, which has the images side by side."""
    return torch.as_strided(x.contiguous(), *arguments)


def _network_input(graph: fx.Graph) -> fx.Node:
    found: fx.Node = next(node for node in graph.nodes if node.meta.get("tensor_name") == INPUT)
    return found


# -- one function a kind of record: (node, its arguments, constants) -> record, or None where it is used otherwise --


def _convolution(node: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    weight = a["weight"]
    axes = weight.meta["val"].dim() - 2
    if weight not in constants or a.get("bias") not in {None, *constants} or a["input"].meta["val"].dim() != axes + 2:
        return None
    name = base_name(node)
    transposed = a["transposed"] if name == "convolution" else "transpose" in name
    stride, dilation = per_axis(a["stride"], axes), per_axis(a["dilation"], axes)
    if isinstance(a["padding"], str):
        kernel = weight.meta["val"].shape[2:]
        total = [d * (k - 1) if a["padding"] == "same" else 0 for d, k in zip(dilation, kernel, strict=True)]
        sides = tuple((size // 2, size - size // 2) for size in total)
    else:
        sides = tuple((size, size) for size in per_axis(a["padding"], axes))
    output_padding = per_axis(a["output_padding"], axes) if transposed else ()
    record = Convolution(stride, sides, dilation, a["groups"], transposed, output_padding)
    matrix = constants[weight]
    if transposed:
        matrix = Constant(transposed_layout(matrix.value, a["groups"]), matrix.parameter)
    return record, (a["input"], matrix, *_known((a.get("bias"),), constants))


def _linear(_: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    if a["weight"] not in constants or a["bias"] not in {None, *constants} or a["weight"].meta["val"].dim() != 2:
        return None
    return Linear(), (a["input"], *_known((a["weight"], a["bias"]), constants))


def _known(nodes: Sequence[fx.Node | None], constants: Constants) -> tuple[Constant, ...]:
    return tuple(constants[node] for node in nodes if node is not None)


def _batch_norm(_: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    statistics = (a["running_mean"], a["running_var"])
    if a.get("training") or not all(part in constants for part in statistics):
        return None
    if not all(a[part] in {None, *constants} for part in ("weight", "bias")):
        return None
    mean, variance = _known(statistics, constants)
    ones, zeros = (Constant(torch.full_like(mean.value, value), "") for value in (1.0, 0.0))
    gamma = ones if a["weight"] is None else constants[a["weight"]]
    beta = zeros if a["bias"] is None else constants[a["bias"]]
    return BatchNorm(a["eps"], a["momentum"]), (a["input"], gamma, beta, mean, variance)


def _clamp(lo: Callable[[Arguments], Any], hi: Callable[[Arguments], Any]) -> _Record:
    def record(_: fx.Node, a: Arguments, __: Constants) -> Recorded | None:
        limits = [limit(a) for limit in (lo, hi)]
        if any(isinstance(limit, fx.Node) for limit in limits):
            return None
        lowest, highest = -math.inf if limits[0] is None else limits[0], math.inf if limits[1] is None else limits[1]
        return Clamp(float(lowest), float(highest)), (a["self"],)

    return record


def _threshold(_: fx.Node, a: Arguments, __: Constants) -> Recorded | None:
    return (Clamp(float(a["threshold"]), math.inf), (a["self"],)) if a["threshold"] == a["value"] else None


def _add(node: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    x, y = a["self"], a["other"]
    if a["alpha"] != 1 or not isinstance(y, fx.Node) or not is_tensor(y):
        return None
    computed = [n for n in (x, y) if n not in constants and is_float(n)]
    return (Add(), (x, y)) if len(computed) == 2 else _channel_affine(node, a, constants)


def _channel_affine(node: fx.Node, _: Arguments, constants: Constants) -> Recorded | None:
    """Sums with and products by numbers per channel, as many as follow each other, as one record.

    A product alone is `Other`: that is how residual branches are scaled, and folding it would have integers add them.
    """
    steps = [step] if (step := _step(node, constants)) is not None else []
    while steps and (before := _step(steps[-1].x, constants)) is not None:
        if len(steps[-1].x.users) > 1 or before.axis != steps[0].axis:
            break
        steps.append(before)
    if all(step.shift is None for step in steps):
        return None
    scale, shift = torch.ones(()), torch.zeros(())
    for step in reversed(steps):
        if step.scale is not None:
            scale, shift = step.scale * scale, step.scale * shift
        if step.shift is not None:
            shift = shift + step.shift
    source, axis = steps[-1].x, steps[0].axis
    numbers = (Constant(values.float().expand(shape_of_one(node)[axis]).clone(), "") for values in (scale, shift))
    return ChannelAffine(axis), (source, *numbers)


@final
@dataclass(frozen=True, eq=False)
class _Step:
    """x * scale + shift, either of them (channels,) along `axis` or None."""

    x: fx.Node
    axis: int
    scale: Tensor | None = None
    shift: Tensor | None = None


def _step(node: fx.Node, constants: Constants) -> _Step | None:
    name = base_name(node)
    if name not in {"add", "sub", "mul", "div"} or not is_tensor(node):
        return None
    a = arguments_of(node)
    x, y = a["self"], a["other"]
    if name in {"add", "mul"} and x in constants:
        x, y = y, x
    if y not in constants or not isinstance(x, fx.Node) or x in constants or not is_float(x):
        return None
    if a.get("alpha", 1) != 1 or a.get("rounding_mode") is not None or shape_of_one(node) != shape_of_one(x):
        return None
    values, axes = constants[y].value, x.meta["val"].dim()
    long = [axes - values.dim() + i for i, size in enumerate(values.shape) if size > 1]
    if len(long) != 1 or long[0] == 0:
        return None
    numbers, axis = values.flatten(), long[0]
    match name:
        case "add":
            return _Step(x, axis, shift=numbers)
        case "sub":
            return _Step(x, axis, shift=-numbers)
        case "mul":
            return _Step(x, axis, scale=numbers)
        case _:
            return _Step(x, axis, scale=1 / numbers)


def _average_pool(node: fx.Node, a: Arguments, _: Constants) -> Recorded | None:
    axes = int(base_name(node)[-2])
    kernel = per_axis(a["kernel_size"], axes)
    stride = per_axis(a["stride"], axes) if a["stride"] else kernel
    geometry = (kernel, stride, per_axis(a["padding"], axes), a["ceil_mode"], a["count_include_pad"])
    record = AveragePool(*geometry, a.get("divisor_override"))
    return (record, (a["self"],)) if _has_images(a["self"], axes) else None


def _adaptive_average_pool(node: fx.Node, a: Arguments, _: Constants) -> Recorded | None:
    axes = int(base_name(node)[-2])
    return (AdaptiveAveragePool(tuple(a["output_size"])), (a["self"],)) if _has_images(a["self"], axes) else None


def _has_images(x: fx.Node, axes: int) -> bool:
    """Whether there are axes for images and channels before those that are pooled."""
    return bool(x.meta["val"].dim() == axes + 2)


def _mean(_: fx.Node, a: Arguments, __: Constants) -> Recorded | None:
    x = a["self"]
    if not a.get("dim") or not is_float(x):
        return None
    axes = tuple(sorted(axis % x.meta["val"].dim() for axis in a["dim"]))
    return None if 0 in axes else (Mean(axes, a["keepdim"]), (x,))


def _max_pool(node: fx.Node, a: Arguments, _: Constants) -> Recorded | None:
    axes = int(base_name(node).removesuffix("_with_indices")[-2])
    kernel = per_axis(a["kernel_size"], axes)
    stride = per_axis(a["stride"], axes) if a["stride"] else kernel
    record = MaxPool(kernel, stride, per_axis(a["padding"], axes), per_axis(a["dilation"], axes), a["ceil_mode"])
    return (record, (a["self"],)) if _has_images(a["self"], axes) else None


def _adaptive_max_pool(node: fx.Node, a: Arguments, _: Constants) -> Recorded | None:
    axes = int(base_name(node)[-2])
    return (AdaptiveMaxPool(tuple(a["output_size"])), (a["self"],)) if _has_images(a["self"], axes) else None


def _concatenate(_: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    parts = tuple(a["tensors"])
    if any(part in constants or not is_float(part) for part in parts):
        return None
    return Concatenate(a["dim"] % parts[0].meta["val"].dim()), parts


def _reshape(node: fx.Node, a: Arguments, _: Constants) -> Recorded | None:
    """The shape is read off the result, whatever way it was asked for."""
    sizes = [times_images(size) for size in node.meta["val"].shape]
    if sum(grows for _, grows in sizes) > 1 or not is_float(a["self"]):
        return None
    return Reshape(tuple(-1 if grows else size for size, grows in sizes)), (a["self"],)


def _pad(node: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    if a.get("mode", "constant") != "constant":
        return _move(node, a, constants)
    padding = a["pad"]
    if a["value"] not in {None, 0} or not all(isinstance(size, int) for size in padding):
        return None
    return Pad(tuple(padding)), (a["self"],)


def _move(node: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    """Values of the first input, selected by nothing but constants."""
    source, *others = [n for n in node.all_input_nodes if is_tensor(n)]
    kept = source is a.get("self", a.get("input")) and all(other in constants for other in others)
    return _called(Move, node) if kept and is_float(source) else None


def _activation(node: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    x, *others = node.all_input_nodes
    return _called(Activation, node) if x is a["self"] and all(other in constants for other in others) else None


def _matmul(_: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    """x W with a constant W (in, out) is a linear layer."""
    return _linear_of(a["self"], a["mat2"] if "mat2" in a else a["other"], None, constants)


def _addmm(_: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    bias = a["self"]
    if a["beta"] != 1 or a["alpha"] != 1 or bias not in constants or bias.meta["val"].dim() != 1:
        return None
    return _linear_of(a["mat1"], a["mat2"], bias, constants)


def _einsum(_: fx.Node, a: Arguments, constants: Constants) -> Recorded | None:
    """A linear layer where the last axis of a tensor is summed up with a constant matrix, and its other axis comes
    last in its place: "nlc,ck->nlk", "nc,kc->nk"."""
    operands, (read, _, result) = list(a["tensors"]), a["equation"].replace(" ", "").partition("->")
    labels = read.split(",")
    if len(operands) != 2:
        return None
    if operands[0] in constants:
        operands, labels = operands[::-1], labels[::-1]
    x, matrix = labels
    if len(matrix) != 2 or len({*x, *matrix}) != len(x) + 1 or not x or x[-1] not in matrix:
        return None
    summed, made = x[-1], matrix.replace(x[-1], "")
    if result != x[:-1] + made:
        return None
    return _linear_of(operands[0], operands[1], None, constants, transpose=matrix[0] == summed)


def _linear_of(
    x: fx.Node, weight: fx.Node, bias: fx.Node | None, constants: Constants, transpose: bool = True
) -> Recorded | None:
    """A linear layer by a constant matrix, (in, out) if `transpose`, else (out, in)."""
    if x in constants or weight not in constants or weight.meta["val"].dim() != 2 or x.meta["val"].dim() < 2:
        return None
    matrix = constants[weight]
    if transpose:
        matrix = Constant(matrix.value.t().contiguous(), matrix.parameter)
    return Linear(), (x, matrix, *_known((bias,), constants))


# -- items of operators that return several tensors --


def maker_of(node: fx.Node) -> fx.Node:
    """The node that a tensor is named after: an operator that returns more, where only its first tensor is read."""
    if node.target is operator.getitem:
        parent = node.args[0]
        if isinstance(parent, fx.Node) and base_name(parent) in _FIRST_ITEM and _only_first_item_is_read(parent):
            return parent
    return node


def _item(node: fx.Node, constants: Constants) -> Recorded:
    parent, index = node.args
    assert isinstance(parent, fx.Node)
    assert isinstance(index, int)
    name, single = base_name(parent) if is_aten(parent.target) else "", _only_first_item_is_read(parent)
    record = _FIRST_ITEM.get(name) if single and index == 0 and _computes_float(node) else None
    found = record(parent, arguments_of(parent), constants) if record is not None else None
    if found is None and name in _SPLITS and _computes_float(node):
        found = _part(parent, index)
    return found or (Other(Call(operator.getitem, (Slot(0), index))), (parent,))


def _only_first_item_is_read(parent: fx.Node) -> bool:
    return all(user.target is operator.getitem and (user.args[1] == 0 or not user.users) for user in parent.users)


def _part(parent: fx.Node, index: int) -> Recorded | None:
    """A part of a split tensor, cut out of it by itself."""
    a, parts = arguments_of(parent), parent.meta["val"]
    source = a["self"]
    axis = a["dim"] % source.meta["val"].dim()
    if base_name(parent) == "unbind":
        return (Move(Call(torch.ops.aten.select.int, (Slot(0), axis, index))), (source,)) if axis else None
    ends = [0]
    for part in parts:
        size, grows = times_images(part.shape[axis])
        if grows:
            return None
        ends.append(ends[-1] + size)
    return Move(Call(torch.ops.aten.slice.Tensor, (Slot(0), axis, ends[index], ends[index + 1]))), (source,)


_Record: TypeAlias = Callable[[fx.Node, Arguments, Constants], Recorded | None]

_SPLITS = {"split", "split_with_sizes", "chunk", "tensor_split", "unbind", "unsafe_split", "unsafe_chunk"}
_FIRST_ITEM: dict[str, _Record] = {
    "_native_batch_norm_legit_no_training": _batch_norm,
    "max_pool2d_with_indices": _max_pool,
    "max_pool3d_with_indices": _max_pool,
    "max_pool1d_with_indices": _max_pool,
    "adaptive_max_pool1d": _adaptive_max_pool,
    "adaptive_max_pool2d": _adaptive_max_pool,
    "adaptive_max_pool3d": _adaptive_max_pool,
}
_RECORDS: dict[str, _Record] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d", "convolution"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _convolution),
    "linear": _linear,
    **dict.fromkeys(("matmul", "mm"), _matmul),
    "addmm": _addmm,
    "einsum": _einsum,
    "batch_norm": _batch_norm,
    "relu": _clamp(lambda _: 0.0, lambda _: None),
    "relu6": _clamp(lambda _: 0.0, lambda _: 6.0),
    "hardtanh": _clamp(lambda a: a["min_val"], lambda a: a["max_val"]),
    "clamp": _clamp(lambda a: a["min"], lambda a: a["max"]),
    "clip": _clamp(lambda a: a["min"], lambda a: a["max"]),
    "clamp_min": _clamp(lambda a: a["min"], lambda _: None),
    "clamp_max": _clamp(lambda _: None, lambda a: a["max"]),
    "threshold": _threshold,
    "add": _add,
    **dict.fromkeys(("sub", "mul", "div"), _channel_affine),
    **dict.fromkeys(("avg_pool1d", "avg_pool2d", "avg_pool3d"), _average_pool),
    **dict.fromkeys(("adaptive_avg_pool1d", "adaptive_avg_pool2d", "adaptive_avg_pool3d"), _adaptive_average_pool),
    "mean": _mean,
    **dict.fromkeys(("max_pool1d", "max_pool2d", "max_pool3d"), _max_pool),
    **dict.fromkeys(("cat", "concat", "concatenate"), _concatenate),
    **dict.fromkeys(RESHAPES, _reshape),
    **dict.fromkeys(("pad", "constant_pad_nd"), _pad),
    **dict.fromkeys(_MOVES, _move),
    **dict.fromkeys(_ACTIVATIONS, _activation),
}
