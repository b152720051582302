"""Decode a data set once: its uint8 tensors, kept on disk under a key of what decides the content."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from quant_sweep.data.base import Decoded, ImageSet, stored_form, with_digest
from quant_sweep.runtime.disk_cache import made_once
from quant_sweep.runtime.tensor_file import read_tensors, write_tensors

FORMAT = 3  # raise it when the same sources decode to something else, or are stored otherwise


def decoded_once(
    kind: str, source: Mapping[str, object], cache_dir: str | Path, decode: Callable[[], Decoded]
) -> Decoded:
    """Return the decoded set that `source` stands for, from the cache or by decoding it now.

    Args:
        kind: the sort of data set, first part of the file's name.
        source: everything that decides the content, as JSON values; its hash is the rest of the name.
        cache_dir: the file goes to cache_dir/data.
        decode: makes the content; called at most once, and by one process at a time.

    Raises:
        InputError: cache_dir cannot be written. Known before decoding starts, except for a disk that fills up.
    """
    return made_once(path_of(kind, source, cache_dir), read_intact, decode, write)


def path_of(kind: str, source: Mapping[str, object], cache_dir: str | Path) -> Path:
    """The cache file of what `source` stands for; arguments as those of `decoded_once`."""
    key = hashlib.sha256(json.dumps({"format": FORMAT, **source}, sort_keys=True).encode()).hexdigest()
    return Path(cache_dir).expanduser() / "data" / f"{kind}-{key[:32]}.safetensors"


def read_intact(path: Path) -> Decoded | None:
    """Read a cache file; None where there is none, or where it does not hold what its digest says."""
    stored = read_tensors(path)
    if stored is None:
        return None
    try:
        parts = tuple(tuple(part) for part in json.loads(stored.text.get("parts", "[]")))
        train, test = (
            ImageSet(stored.tensors[f"{split}.images"], stored.tensors.get(f"{split}.labels"), parts)
            for split in ("train", "test")
        )
        return with_digest(json.loads(stored.text["classes"]), train, test, stored.digest)
    except (KeyError, ValueError):  # intact, and not ours
        return None


def write(path: Path, content: Decoded) -> None:
    """Write a cache file that appears at `path` whole or not at all."""
    write_tensors(path, *stored_form(content.classes, content.train, content.test))
