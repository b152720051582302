"""Tensors and text in one safetensors file that appears whole, and is believed only if its digest is right.

The digest covers every tensor (name, type, shape, bytes) and the text; it lies beside them in the file's metadata.
Caches and trained weights are such files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quant_sweep.runtime.atomic_file import replacing

# One entry: safetensors writes several in any order, and equal contents shall give equal files.
_ENTRY = "quant_sweep"


@dataclass(frozen=True, eq=False)
class Stored:
    """What a file holds.

    Attributes:
        tensors: by name; each maps the file privately, so that processes share its pages until they write to them.
        text: by name.
        digest: `digest_of` both.
    """

    tensors: Mapping[str, Tensor]
    text: Mapping[str, str]
    digest: str


def write_tensors(path: Path, tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> None:
    """Write a file that appears at `path` whole or not at all.

    Raises:
        OSError, SafetensorError: it cannot be written; `path` is as it was.
    """
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    entry = json.dumps({"digest": digest_of(plain, text), "text": dict(text)}, sort_keys=True)
    with replacing(path) as unfinished:
        save_file(plain, unfinished, metadata={_ENTRY: entry})


def read_tensors(path: Path) -> Stored | None:
    """What `write_tensors` wrote; None where there is no file, or where it does not hold what its digest says."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            entry = json.loads((file.metadata() or {})[_ENTRY])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  (it is no dict)
        stored = Stored(tensors, entry["text"], entry["digest"])
        return stored if digest_of(tensors, stored.text) == stored.digest else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # cut off, not safetensors, or not ours
        return None


def is_of_write_tensors(path: Path) -> bool:
    """Whether a safetensors file comes from `write_tensors`, damaged or not: by name or by form of what lies beside
    the tensors, so that a bit that flips in the name does not make it somebody else's.

    Raises:
        OSError, SafetensorError: it is no safetensors file, or so damaged that it looks like none.
    """
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
    return _ENTRY in metadata or any('"digest"' in entry and '"text"' in entry for entry in metadata.values())


def digest_of(tensors: Mapping[str, Tensor], text: Mapping[str, str]) -> str:
    """SHA-256, in hex, of names, types, shapes and bytes of the tensors, on the CPU, and of the text."""
    digest = hashlib.sha256(json.dumps(dict(text), sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        digest.update(f"\0{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
