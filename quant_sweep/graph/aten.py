"""What a node of an exported program says: its operator, its arguments, its shape."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import Tensor, fx

from quant_sweep.errors import InputError
from quant_sweep.graph.operations import Sizes

# The number of images of a program that was exported for one number: a prime that models count nothing else by, so
# that a size that it divides is one of the images; and few enough that a model which makes a tensor of each ends soon.
MANY_IMAGES = 2_003

Arguments: TypeAlias = Mapping[str, Any]  # by the schema's names

_IDENTITIES = {
    "alias", "clone", "contiguous", "detach", "detach_", "dropout", "feature_dropout", "alpha_dropout",
    "feature_alpha_dropout", "lift_fresh", "lift_fresh_copy", "identity",
}  # fmt: skip
RESHAPES = {"view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as"}


def base_name(node: fx.Node) -> str:
    """The operator's name without namespace, overload and the mark of an in-place form: relu, conv2d, getitem."""
    schema = getattr(node.target, "_schema", None)
    if schema is None:
        return str(getattr(node.target, "__name__", node.target))
    return str(schema.name).partition("::")[2].removesuffix("_")


def is_aten(function: object) -> bool:
    """Whether it is an operator of ATen; others may have the same names and do something else."""
    schema = getattr(function, "_schema", None)
    return schema is not None and str(schema.name).startswith("aten::")


def arguments_of(node: fx.Node) -> Arguments:
    """The arguments of an ATen operator by their names, defaults filled in."""
    schema = node.target._schema  # type: ignore[union-attr]
    values = {argument.name: argument.default_value for argument in schema.arguments if argument.has_default_value()}
    positional = [argument.name for argument in schema.arguments if not argument.kwarg_only]
    return {**values, **dict(zip(positional, node.args, strict=False)), **node.kwargs}


def same_as_input(node: fx.Node) -> fx.Node | None:
    """The node whose tensor `node` passes on unchanged; None if it computes anything."""
    if node.op != "call_function" or not is_aten(node.target):
        return None
    name, sources = base_name(node), node.all_input_nodes
    if not sources or not is_tensor(node) or not is_tensor(sources[0]):
        return None
    source, value = sources[0], node.meta["val"]
    if name in _IDENTITIES:
        trains = arguments_of(node).get("train", False)
        return None if trains else source
    if name in {"to", "_to_copy", "type_as", "float", "double", "half", "bfloat16"}:
        both_float = source.meta["val"].is_floating_point() and value.is_floating_point()
        return source if both_float or source.meta["val"].dtype == value.dtype else None
    if name == "slice" and tuple(value.shape) == tuple(source.meta["val"].shape) and arguments_of(node)["step"] == 1:
        return source
    if name in {"expand", "expand_as", *RESHAPES} and tuple(value.shape) == tuple(source.meta["val"].shape):
        return source if value.dtype == source.meta["val"].dtype else None
    return None


def is_tensor(node: fx.Node) -> bool:
    return isinstance(node.meta.get("val"), Tensor)


def shape_of_one(node: fx.Node) -> Sizes:
    """The shape of what a node makes of one image; () if it makes no single tensor."""
    return tuple(times_images(size)[0] for size in node.meta["val"].shape) if is_tensor(node) else ()


def times_images(size: Any) -> tuple[int, bool]:
    """A size as a number for one image, and whether it grows with the number of images: it is a multiple of
    `MANY_IMAGES`, or symbolic.

    Raises:
        InputError: it does so in another way than in proportion.
    """
    if isinstance(size, int):
        of_images = size > 0 and size % MANY_IMAGES == 0
        return (size // MANY_IMAGES, True) if of_images else (size, False)
    expression = size.node.expr
    if expression.is_number:
        return int(expression), False
    (symbol, *others) = expression.free_symbols
    times = expression.subs(symbol, 1)
    if others or not times.is_integer or (expression - times * symbol).simplify() != 0:
        raise InputError(f"model: a size of {expression} for {symbol} images is not in proportion to their number")
    return int(times), True


def is_float(node: fx.Node) -> bool:
    return bool(node.meta["val"].is_floating_point())


def per_axis(value: Any, axes: int) -> Sizes:
    """One number for each axis, from one for all or one for each."""
    values: Sequence[int] = [value] if isinstance(value, int) else list(value)
    return tuple(values) * (axes // len(values))
