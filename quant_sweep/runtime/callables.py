"""Callables that a person names as `package.module:function`; modules in the working directory can be imported."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Mapping
from typing import Any

from quant_sweep.errors import InputError


def imported(key: str, factory: str) -> Callable[..., Any]:
    """What `factory` names.

    Args:
        key: what the person typed it for, such as `model.factory`.

    Raises:
        InputError: it is not of that form, cannot be imported, or cannot be called.
    """
    module_name, _, attribute = str(factory).partition(":")
    if not module_name or not attribute:
        raise InputError(f"{key}={factory}: not of the form package.module:function")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError, SyntaxError) as error:
        raise InputError(
            f"{key}={factory}: cannot be imported ({' '.join(str(error).split())}); "
            "give package.module:function, importable from the working directory"
        ) from error
    if not callable(found):
        raise InputError(f"{key}={factory}: is a {type(found).__name__}; it must be callable")
    return found  # type: ignore[no-any-return]


def parameters_of(function: Callable[..., Any]) -> Mapping[str, inspect.Parameter]:
    """By name; none of a builtin that does not tell."""
    try:
        return inspect.signature(function).parameters
    except ValueError:
        return {}


def check_call(key: str, name: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Refuse arguments that a function does not take.

    Args:
        key: what the person typed them for, such as `model.kwargs`.
        name: of the function, as the person typed it.

    Raises:
        InputError: they do not fit its signature.
    """
    try:
        inspect.signature(function).bind(**arguments)
    except ValueError:  # a builtin that does not tell
        return
    except TypeError as error:
        raise InputError(f"{key}={dict(arguments)}: {name} {inspect.signature(function)}: {error}") from error
