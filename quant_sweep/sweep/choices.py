"""What a config may build: the choices that this package ships for each group, with other values, and no more.

The allow-list is the config tree itself: a class or factory that no yaml of `conf/<group>/` names, no other config can
name either. A person's own class comes in through the `factory` of `model=custom`, `data=custom` and `metric=custom`
alone; a config with `factory` is code.
"""

from __future__ import annotations

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

from omegaconf import OmegaConf

from quant_sweep.errors import InputError
from quant_sweep.runtime.kinds import fits, words

_PACKAGE = Path(__file__).parents[1]
# Whose `name` is the person's own word, since what they build is their own; any other label is that of the choice.
_OWN_NAME = (
    "quant_sweep.models.from_callable",
    "quant_sweep.data.arrays",
    "quant_sweep.data.custom",
    "quant_sweep.data.imagefolder",
    "quant_sweep.data.pictures",
)


def config_folder() -> Path:
    """The config tree: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "conf"
    return installed if installed.is_dir() else _PACKAGE.parent / "conf"


@functools.cache
def shipped(group: str) -> Mapping[str, Mapping[str, Any]]:
    """The choices of a group as they are written, by their names; interpolations are left as they are.

    Args:
        group: of `observer` the choices; of `recovery.bias`, a part of a group, that choice alone.
    """
    folder, _, part = group.partition(".")
    files = sorted((config_folder() / folder).glob("*.yaml"))
    written = {file.stem: OmegaConf.to_container(OmegaConf.load(file), resolve=False) for file in files}
    nodes = {name: {str(k): v for k, v in node.items()} for name, node in written.items() if isinstance(node, dict)}
    return {part: nodes[part][part]} if part else nodes


def check_choice(group: str, node: Any) -> None:
    """Refuse what is not one of the choices of `group` with other values: another class, key or label.

    Args:
        node: the group's part of the config, resolved.

    Raises:
        InputError: naming `group` or the key in it, and what is allowed.
    """
    choices = shipped(group)
    if not isinstance(node, Mapping):
        raise InputError(f"{group}={node!r}: allowed are {', '.join(choices)}")
    _check_target(group, node.get("_target_"))
    same = {name: choice for name, choice in choices.items() if choice.get("_target_") == node.get("_target_")}
    label = _check_label(group, node, same)
    choice = same.get(label) or next(iter(same.values()))
    _check_keys(group, f"{group}={label}", node, choice)


def check_parts(group: str, parts: Any) -> None:
    """Refuse what is not made of choices of `group` with other values, each under its name.

    Args:
        parts: the group's part of the config, resolved.

    Raises:
        InputError: naming the part or the key in it, and what is allowed.
    """
    choices = {name: choice[name] for name, choice in shipped(group).items() if name in choice}
    if not isinstance(parts, Mapping):
        raise InputError(f"{group}={parts!r}: allowed are {', '.join(shipped(group))}")
    for name, node in parts.items():
        if name not in choices:
            raise InputError(f"{group}.{name}: there is none; {_are(list(choices))}")
        if not isinstance(node, Mapping):
            raise InputError(f"{group}.{name}={node!r}: {_settings(choices[name])}")
        _check_target(f"{group}.{name}", node.get("_target_"))
        _check_keys(f"{group}.{name}", f"{group}={name}", node, choices[name])


def _check_keys(group: str, label: str, node: Mapping[str, Any], choice: Mapping[str, Any]) -> None:
    for key in node:
        if key not in choice:
            raise InputError(f"{group}.{key}={node[key]}: {label} has no such setting; {_settings(choice)}")
    for key in choice:
        if key not in node:
            raise InputError(f"{group}.{key}: it must be given; {label} has it, and no ~ may take it away")


def _check_label(group: str, node: Mapping[str, Any], same: Mapping[str, Mapping[str, Any]]) -> str:
    """The name of a node, which must say what it is."""
    if "name" not in node:
        raise InputError(f"{group}.name: it must be given; allowed are {', '.join(shipped(group))}")
    name = node["name"]
    if node.get("_target_") in _OWN_NAME:
        return check_name(f"{group}.name", name)
    allowed = {str(node.get("arch")) if "${" in str(choice["name"]) else known for known, choice in same.items()}
    if name not in allowed:
        raise InputError(f"{group}.name={name}: it is no free text but says what runs; allowed: {_or(sorted(allowed))}")
    for known, choice in same.items():  # the values of one choice under the name of another
        if known != name and "_target_" in node and known in allowed and {**choice, "name": name} == dict(node):
            raise InputError(f"{group}.name={name}: these are the values of {group}={known}; use that")
    return str(name)


def check_name(key: str, name: Any) -> str:
    """A name that may be part of file names, run names and tables: `key=` in the message.

    Raises:
        InputError: it is none.
    """
    text = str(name)
    plain = all(letter.isalnum() or letter in " ._+-" for letter in text)
    if not isinstance(name, str | int) or not plain or not 1 <= len(text) <= 100 or text[0] in " .-":
        raise InputError(f"{key}={name!r}: allowed are 1 to 100 letters, digits, spaces and ._+-, a letter first")
    return text


def build(group: str, node: Mapping[str, Any], **more: Any) -> Any:
    """Call what the node's `_target_` names with its other values, except `name`.

    Args:
        group: the config group, which decides what may be built.
        node: resolved.
        more: further keyword arguments.

    Raises:
        InputError: the target is none of the group's, a value is of the wrong kind, or the target refuses it.
    """
    found = _check_target(group, node.get("_target_"))
    arguments = {key: value for key, value in node.items() if key not in ("name", "_target_")}
    _check_kinds(group, found, arguments)
    try:
        inspect.signature(found).bind(**arguments, **more)
    except TypeError as error:
        typed = " ".join(f"{group}.{key}={value}" for key, value in arguments.items())
        raise InputError(f"{typed or group}: {error}") from error
    try:
        return found(**arguments, **more)
    except InputError as error:
        message = str(error)
        is_named = message.startswith((f"{group}.", f"{group}=")) or "=" not in message.split(":")[0]
        raise InputError(message if is_named else f"{group}.{message}") from error


def _check_target(group: str, target: Any) -> Callable[..., Any]:
    """What a target names; nothing is imported but what the package's own configs name."""
    allowed = sorted({str(choice["_target_"]) for choice in shipped(group).values() if "_target_" in choice})
    if target is None and not allowed:  # a group of settings alone
        return dict
    if target not in allowed:
        raise InputError(f"{group}._target_={target!r}: a config builds what its group has; {_are(allowed)}")
    module, _, name = str(target).rpartition(".")
    found: Callable[..., Any] = getattr(importlib.import_module(module), name)
    return found


def _check_kinds(group: str, found: Callable[..., Any], arguments: Mapping[str, Any]) -> None:
    """Hold values against the annotations: Python would take true for 1, and the text "off" for true."""
    hints = get_type_hints(found)
    for key, value in arguments.items():
        if key in hints and not fits(value, hints[key]):
            raise InputError(f"{group}.{key}={value!r}: allowed {words(hints[key])}")


def _settings(choice: Mapping[str, Any]) -> str:
    names = [key for key in choice if key not in ("_target_", "name")]
    return _are(names) if names else "it has none"


def _are(names: list[str]) -> str:
    return f"allowed {'is' if len(names) == 1 else 'are'} {', '.join(names)}"


def _or(names: list[str]) -> str:
    return " or ".join(names)
