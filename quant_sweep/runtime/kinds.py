"""Whether a value of a config is of the kind that an annotation asks for.

Stricter than Python: true is no number, 1 is no flag, and text is no list.
"""

from __future__ import annotations

import types
from collections.abc import Mapping, Sequence
from typing import Any, Union, get_args, get_origin

_WORDS = {bool: "are true and false", int: "is a whole number", float: "is a number", str: "is text"}
_HIGHEST_SEED = 2**32 - 1  # of numpy; torch takes more


def fits(value: Any, kind: Any) -> bool:
    """Whether `value` is of `kind`: bool, int, float, str, None, a list or a mapping of such, or a union of them."""
    origin = get_origin(kind)
    if origin in (Union, types.UnionType):
        return any(fits(value, one) for one in get_args(kind))
    if kind in (None, type(None)):
        return value is None
    if kind is int:
        return is_whole(value)
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if origin is not None and issubclass(origin, Mapping):
        return isinstance(value, Mapping)
    if origin is not None and issubclass(origin, Sequence):
        (of,) = get_args(kind) or (Any,)
        return isinstance(value, list | tuple) and all(fits(one, of) for one in value)
    return not isinstance(kind, type) or isinstance(value, kind)


def words(kind: Any) -> str:
    """What `fits` allows, as the end of a message that begins with "allowed"."""
    if get_origin(kind) in (Union, types.UnionType):
        kinds = [one for one in get_args(kind) if one is not type(None)]
        options = [words(one).removeprefix("is ").removeprefix("are ") for one in kinds]
        return f"is {' or '.join(options)}" + (", or null" if len(kinds) < len(get_args(kind)) else "")
    if get_origin(kind) is not None:
        return "is a mapping, {key: value}" if issubclass(get_origin(kind), Mapping) else "is a list of numbers"
    return _WORDS.get(kind, f"is a {getattr(kind, '__name__', kind)}")


def is_whole(value: Any, lowest: int | None = None, highest: int | None = None) -> bool:
    """Whether a value is a whole number, and neither true nor false, from `lowest` to `highest`."""
    whole = isinstance(value, int) and not isinstance(value, bool)
    return whole and (lowest is None or value >= lowest) and (highest is None or value <= highest)


def is_seed(value: Any) -> bool:
    """Whether every library of ours takes a value as a seed."""
    return is_whole(value, 0, _HIGHEST_SEED)


SEEDS = f"whole numbers from 0 to {_HIGHEST_SEED}"
