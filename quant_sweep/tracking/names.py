"""Names of metrics and params that MLflow can store, for any name that a network or a config gives.

MLflow takes up to 250 letters, digits and `_-.:/ ` that read as one relative path. The rest becomes `_`; where two
names would become one, or are too long, the one that was changed ends in a hash of itself.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping

_FOREIGN = re.compile(r"[^\w\-.:/ ]", re.ASCII)
LONGEST_NAME = 250  # characters, as MLflow's database has them
LONGEST_TAG = 7500  # characters; MLflow takes 8000
_HASH = 8  # hex digits


def stored_names(names: Iterable[str], known: Mapping[str, str]) -> dict[str, str]:
    """Each name as MLflow shall have it.

    Args:
        names: any text.
        known: what an earlier call for the same run returned.

    Returns:
        `known` and the new names; all values differ.
    """
    found = dict(known)
    new = [name for name in dict.fromkeys(names) if name not in found]
    plain = {name: _plain(name) for name in new}
    taken = set(found.values())
    for name in sorted(new, key=lambda name: plain[name] != name):  # those that need no change keep their names
        stored = plain[name]
        if len(stored) > LONGEST_NAME or stored in taken:
            digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH]
            stored = f"{stored[: LONGEST_NAME - _HASH - 1]}_{digest}"
        found[name] = stored
        taken.add(stored)
    return found


def _plain(name: str) -> str:
    """The name in MLflow's alphabet; no part of it is one that a path would leave out."""
    parts = (part if part.strip(".") else "_" for part in _FOREIGN.sub("_", name).split("/"))
    plain = "/".join(parts)
    return f"_{plain}" if plain.startswith("..") else plain
