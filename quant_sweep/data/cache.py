"""Decode a data set once: its uint8 tensors, kept on disk as safetensors under a key of what decides the content.

A file is used only when the sha256 of its pixels, labels and classes is the one that was written with it. Reading maps
the file privately: processes share its pages.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from quant_sweep.data.base import Decoded, ImageSet, decoded
from quant_sweep.runtime.atomic_file import replacing
from quant_sweep.runtime.disk_cache import made_once

FORMAT = 1  # raise it when the same sources decode to something else


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
    key = hashlib.sha256(json.dumps({"format": FORMAT, **source}, sort_keys=True).encode()).hexdigest()
    path = Path(cache_dir).expanduser() / "data" / f"{kind}-{key[:32]}.safetensors"
    return made_once(path, read_intact, decode, write)


def read_intact(path: Path) -> Decoded | None:
    """Read a cache file; None where there is none, or where it does not hold what its digest says."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            train = ImageSet(file.get_tensor("train.images"), file.get_tensor("train.labels"))
            test = ImageSet(file.get_tensor("test.images"), file.get_tensor("test.labels"))
        content = decoded(json.loads(metadata["classes"]), train, test)
    except (OSError, SafetensorError, KeyError, ValueError):  # cut off, not safetensors, or not ours
        return None
    return content if content.digest == metadata.get("digest") else None


def write(path: Path, content: Decoded) -> None:
    """Write a cache file that appears at `path` whole or not at all."""
    tensors = {
        "train.images": content.train.images,
        "train.labels": content.train.labels,
        "test.images": content.test.images,
        "test.labels": content.test.labels,
    }
    metadata = {"classes": json.dumps(content.classes), "digest": content.digest}
    with replacing(path) as unfinished:
        save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, unfinished, metadata=metadata)
