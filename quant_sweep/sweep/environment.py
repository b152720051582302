"""What of a config comes from environment variables: places and numbers only, and a place is recorded as it is typed.

`${oc.env:TOKEN}` in a config from elsewhere must not carry a secret into a param, the name of a run or a file that
leaves the machine.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from omegaconf.resolvers import oc

from quant_sweep.errors import InputError

# Settings that say where something lies; on a cluster that is often told by a variable.
_PLACES = frozenset(
    {
        *("outputs_dir", "cache_dir", "tracking.uri", "tracking.artifacts", "tracking.lock_dir"),
        *("data.root", "data.cache_dir", "model.checkpoint", "overrides"),
    }
)


def from_environment(cfg: DictConfig) -> dict[str, str]:
    """The settings that an environment variable decides, each as it is written, by its dotted key.

    Args:
        cfg: a whole config, interpolations and all.

    Raises:
        InputError: a variable decides a text that is no place.
    """
    found: dict[str, str] = {}
    written = OmegaConf.to_container(cfg, resolve=False)
    with _noting_variables() as noted:
        for key, text in _interpolated(written):
            noted.clear()
            try:
                value = OmegaConf.select(cfg, key)
            except OmegaConfBaseException:
                value = None  # whoever reads the setting says why
            if noted and key not in _PLACES and not isinstance(value, int | float | Enum | None):
                raise InputError(
                    f"{key}={text}: environment variables may set numbers and {', '.join(sorted(_PLACES))} only"
                )
            if noted and key in _PLACES:
                found[key] = text
    return found


def as_written(settings: Mapping[str, Any], written: Mapping[str, str]) -> dict[str, Any]:
    """Settings as they may be recorded: those in `written`, by dotted key, with that text for their value."""
    shown = copy.deepcopy(dict(settings))
    for key, text in written.items():
        *groups, last = key.split(".")
        node: Any = shown
        for group in groups:
            node = node[group]
        node[last] = text
    return shown


def _interpolated(node: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """The leaves that are not plain values."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _interpolated(value, f"{key}.{name}" if key else str(name))
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _interpolated(value, f"{key}[{index}]")
    elif isinstance(node, str) and "${" in node:
        yield key, node


@contextlib.contextmanager
def _noting_variables() -> Iterator[list[str]]:
    """The names of the variables that are read meanwhile."""
    noted: list[str] = []

    def note(name: str, *default: Any) -> Any:
        noted.append(name)
        return oc.env(name, *default)

    OmegaConf.register_new_resolver("oc.env", note, replace=True)
    try:
        yield noted
    finally:
        OmegaConf.register_new_resolver("oc.env", oc.env, replace=True)
