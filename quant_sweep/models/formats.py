"""Files that hold no state dict, recognised by how they begin, and weights that lie in several files."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

from quant_sweep.errors import InputError

_SAVE = "save its weights with torch.save(model.state_dict(), PATH) or as safetensors"
_BEGINNINGS = {
    b"\x89HDF": "a HDF5 file, as Keras writes it",
    b"GGUF": "a GGUF file, whose weights are quantized already",
    b"\x93NUMPY": "a NumPy array",
    b"\x1f\x8b": "a gzip archive; unpack it",
    b"<!DO": "a web page; the download went wrong",
    b"<htm": "a web page; the download went wrong",
    b"vers": "a Git LFS pointer; fetch the file itself with git lfs pull",
}


def what_else(path: Path) -> str | None:
    """What a file is that is known to be no checkpoint, and what to do; None where nothing is known."""
    with path.open("rb") as file:
        start = file.read(8)
    for beginning, what in _BEGINNINGS.items():
        if start.startswith(beginning):
            return f"is {what}"
    if path.suffix == ".onnx" or (start[:1] == b"\x08" and b"\x12" in start[2:4]):
        return f"is an ONNX model, which holds a graph; {_SAVE} where it was exported"
    if not zipfile.is_zipfile(path):
        return None
    try:
        with zipfile.ZipFile(path) as archive:
            inside = {name.partition("/")[2] for name in archive.namelist()}
    except Exception:  # a damaged file makes zipfile stumble in any way; who reads it says so
        return None
    if "constants.pkl" in inside:
        return f"is a TorchScript program, which is code; load it with torch.jit.load where you trust it and {_SAVE}"
    if any(name.startswith("models/") for name in inside) or "serialized_exported_program.json" in inside:
        return f"is a program of torch.export; {_SAVE}"
    if "data.pkl" not in inside:
        return f"is a zip archive, no checkpoint of PyTorch; {_SAVE}"
    return None


def is_index(path: Path) -> bool:
    """Whether a file is the index of sharded safetensors, by its name."""
    return path.name.endswith(".safetensors.index.json")


def shards(index: Path) -> list[Path]:
    """The files that an index names, each once; they lie beside it.

    Raises:
        InputError: it is no index, or a file is missing.
    """
    try:
        content: Any = json.loads(index.read_text(encoding="utf-8"))
        names = sorted({str(name) for name in content["weight_map"].values()})
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"model.checkpoint={index}: no index of sharded safetensors, it has no weight_map") from error
    for name in names:
        if Path(name).name != name:
            raise InputError(f"model.checkpoint={index}: names {name!r}; allowed are files beside the index")
        if not (index.parent / name).is_file():
            raise InputError(
                f"model.checkpoint={index}: {name} is missing beside it; all {len(names)} files are needed"
            )
    return [index.parent / name for name in names]
