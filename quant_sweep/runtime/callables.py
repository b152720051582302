"""Callables that a person names as `package.module:function`; modules in the working directory can be imported."""

from __future__ import annotations

import importlib
import inspect
import os
import re
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
    if not isinstance(factory, str) or not re.fullmatch(r"[^\W\d][\w.]*:[^\W\d][\w.]*", factory):
        raise InputError(f"{key}={factory}: not of the form package.module:function")
    module_name, _, attribute = factory.partition(":")
    if os.getcwd() not in sys.path and "" not in sys.path:
        sys.path.insert(0, os.getcwd())
    try:
        found: Any = importlib.import_module(module_name)
        for name in attribute.split("."):
            found = getattr(found, name)
    except SystemExit as error:
        raise InputError(f"{key}={factory}: its module called sys.exit({error.code}) on import") from error
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


def called(group: str, factory: str, function: Callable[..., Any], arguments: Mapping[str, Any]) -> Any:
    """What a function returns.

    Args:
        group: the config group that it was typed for.
        factory: the function, as the person typed it.

    Raises:
        InputError: the arguments do not fit its signature, or it ends the program. What else it raises passes through.
    """
    try:
        inspect.signature(function).bind(**arguments)
    except ValueError:  # a builtin that does not tell
        pass
    except TypeError as error:
        raise InputError(
            f"{group}.kwargs={dict(arguments)}: {factory} {inspect.signature(function)}: {error}"
        ) from error
    try:
        return function(**arguments)
    except SystemExit as error:
        raise InputError(f"{group}.factory={factory}: called sys.exit({error.code}) instead of returning") from error
