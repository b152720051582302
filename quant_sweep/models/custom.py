"""A person's own model: any callable that can be imported and returns an `nn.Module`.

`model=custom model.factory=my_package.nets:small model.kwargs={width: 8}` calls `small(width=8)`. Where the callable
has parameters named `num_classes` or `in_channels`, it gets those of the data, unless `kwargs` says otherwise.
Modules in the working directory can be imported, as with `python -m`.
"""

import importlib
import inspect
import os
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from quant_sweep.errors import InputError

__all__ = ["from_callable"]


def from_callable(
    num_classes: int, in_channels: int, factory: str, kwargs: Mapping[str, Any] | None = None
) -> nn.Module:
    """Import `factory` and call it.

    Args:
        num_classes: classes of the data.
        in_channels: channels of the data.
        factory: `package.module:function`; a class will do.
        kwargs: keyword arguments for it, if any.

    Raises:
        InputError: it cannot be imported or called with these arguments, or returns something else than a module.
            What it raises itself passes through.
    """
    if not isinstance(kwargs, Mapping | None):
        raise InputError(f"model.kwargs={kwargs}: allowed is a mapping, {{width: 8}}, or null")
    function = _imported(factory)
    parameters = _parameters(function)
    of_data = {"num_classes": num_classes, "in_channels": in_channels}
    arguments = {name: value for name, value in of_data.items() if name in parameters} | dict(kwargs or {})
    _check_call(factory, function, arguments)
    try:
        model = function(**arguments)
    except SystemExit as error:
        raise InputError(
            f"model.factory={factory}: called sys.exit({error.code}); it must return an nn.Module"
        ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model.factory={factory}: returned a {type(model).__name__}; it must return an nn.Module")
    return model


def _parameters(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(function).parameters
    except ValueError:  # a builtin that does not tell
        return {}


def _imported(factory: str) -> Callable[..., Any]:
    if not isinstance(factory, str) or not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", factory):
        raise InputError(f"model.factory={factory}: not of the form package.module:function")
    module_name, _, attribute = factory.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except SystemExit as error:
        raise InputError(f"model.factory={factory}: its module called sys.exit({error.code}) on import") from error
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError(
            f"model.factory={factory}: cannot be imported ({' '.join(str(error).split())}); "
            "give package.module:function, importable from the working directory"
        ) from error
    if not callable(found):
        raise InputError(f"model.factory={factory}: is a {type(found).__name__}; it must be callable")
    return found  # type: ignore[no-any-return]


def _check_call(factory: str, function: Callable[..., Any], arguments: dict[str, Any]) -> None:
    try:
        inspect.signature(function).bind(**arguments)
    except ValueError:  # a builtin that does not tell
        return
    except TypeError as error:
        raise InputError(f"model.kwargs={arguments}: {factory} {inspect.signature(function)}: {error}") from error
