"""Tensors and text in one safetensors file that appears whole, and is believed only if its digest is right.

The digest covers every tensor (name, type, shape, bytes) and the text; it lies beside them in the file's metadata.
Caches and trained weights are such files. One that is larger than the memory is written row by row, and its bytes are
checked without mapping them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeAlias

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quant_sweep.runtime.atomic_file import replacing

# One entry: safetensors writes several in any order, and equal contents shall give equal files.
_ENTRY = "quant_sweep"
_PIECE = 2**22  # bytes that are read at once
_RESERVED = 2**20  # bytes for what lies beside tensors that are written row by row
_DTYPES = {torch.uint8: "U8", torch.int64: "I64", torch.float32: "F32"}  # as safetensors calls them

Layout: TypeAlias = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]  # type and shape of tensors, by name


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
        return stored if _digest_of_file(path, _layout(tensors), stored.text) == stored.digest else None
    except (OSError, SafetensorError, KeyError, TypeError, ValueError):  # cut off, not safetensors, or not ours
        return None


@contextlib.contextmanager
def writing_rows(
    path: Path, layout: Layout, text: Callable[[], Mapping[str, str]]
) -> Iterator[Callable[[str, int, Tensor], None]]:
    """Write a file as `write_tensors` does, a row at a time; it appears when the block is left without an exception.

    Args:
        layout: type and shape of each tensor, by name.
        text: by name, asked for when all rows are written; less than a megabyte.

    Yields:
        a function of a tensor's name, a number along its axis 0, and what belongs there.

    Raises:
        OSError: it cannot be written; `path` is as it was.
    """
    names = sorted(layout, key=lambda name: (-layout[name][0].itemsize, name))  # so that each lies at its own alignment
    offsets, place = dict[str, tuple[int, int]](), 0
    for name in names:
        dtype, shape = layout[name]
        offsets[name] = place, place + dtype.itemsize * math.prod(shape)
        place = offsets[name][1]
    with replacing(path) as unfinished, unfinished.open("wb+") as file:
        file.truncate(8 + _RESERVED + place)

        def write(name: str, row: int, value: Tensor) -> None:
            dtype, shape = layout[name]
            file.seek(8 + _RESERVED + offsets[name][0] + row * dtype.itemsize * math.prod(shape[1:]))
            file.write(value.contiguous().reshape(-1).view(torch.uint8).numpy().data)

        yield write
        file.flush()
        said = dict(text())
        digest = _digest(layout, said, lambda name: _pieces(file, 8 + _RESERVED, offsets[name]))
        entry = json.dumps({"digest": digest, "text": said}, sort_keys=True)
        header: dict[str, object] = {"__metadata__": {_ENTRY: entry}}
        header |= {
            name: {"dtype": _DTYPES[layout[name][0]], "shape": layout[name][1], "data_offsets": offsets[name]}
            for name in names
        }
        encoded = json.dumps(header).encode()
        if len(encoded) > _RESERVED:
            raise ValueError(f"{len(encoded)} bytes of text beside the tensors of {path}; {_RESERVED} have room")
        file.seek(0)
        file.write(_RESERVED.to_bytes(8, "little") + encoded.ljust(_RESERVED))


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
    plain = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return _digest(_layout(plain), text, lambda name: [plain[name].reshape(-1).view(torch.uint8).numpy().data])


def _digest_of_file(path: Path, layout: Layout, text: Mapping[str, str]) -> str:
    """The same of a file's bytes, a piece at a time: through the mapping, all of them would count as memory in use."""
    with path.open("rb") as file:
        start = 8 + int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(start - 8))
        return _digest(layout, text, lambda name: _pieces(file, start, header[name]["data_offsets"]))


def _layout(tensors: Mapping[str, Tensor]) -> Layout:
    return {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}


def _pieces(file: BinaryIO, start: int, offsets: Sequence[int]) -> Iterator[bytes]:
    begin, end = offsets
    file.seek(start + begin)
    for place in range(begin, end, _PIECE):
        yield file.read(min(_PIECE, end - place))


def _digest(layout: Layout, text: Mapping[str, str], pieces: Callable[[str], Iterable[bytes | memoryview]]) -> str:
    digest = hashlib.sha256(json.dumps(dict(text), sort_keys=True).encode())
    for name in sorted(layout):
        dtype, shape = layout[name]
        digest.update(f"\0{name} {dtype} {shape}\0".encode())
        for piece in pieces(name):
            digest.update(piece)
    return digest.hexdigest()
