"""Weights on disk: read without running code from the file, checked against the model, written atomically.

Reads safetensors, and PyTorch's own files through `torch.load(weights_only=True)`, which refuses every pickled object
that is not plain data. Every byte is checked that can be: against the digest of a file that was written here, against
the checksums of a zip. Leaves out: whole pickled modules, TorchScript, sharded checkpoints.
"""

import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from quant_sweep.errors import InputError
from quant_sweep.runtime.tensor_file import Stored, is_of_write_tensors, read_tensors, write_tensors

__all__ = ["load_weights", "read_checkpoint", "read_written", "write_checkpoint"]

NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
NAMES_SHOWN = 3


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU, by the names that the bare model gives them.

    Raises:
        InputError: no such file, unreadable or truncated, a pickle that holds more than plain data, or no tensors.
    """
    if not path.is_file():
        raise InputError(f"model.checkpoint={path}: no such file; train it with quant-sweep-train or give a path")
    try:
        stored = _read_safetensors(path) if _is_safetensors(path) else _read_torch(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    state = _without_wrappers(_innermost(stored))
    if not state:
        raise InputError(f"model.checkpoint={path}: holds no tensors; save model.state_dict()")
    return state


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str) -> None:
    """Copy `state` into `model`, all of it or nothing.

    BatchNorm's `num_batches_tracked`, which no result depends on, may be missing.

    Args:
        model: receives the values, converted to its own types.
        state: name -> tensor, as `read_checkpoint` gives it.
        source: where the weights come from, for the message.

    Raises:
        InputError: names, shapes or kinds of number differ, or a value is NaN or infinite.
    """
    own = model.state_dict()
    missing = [n for n in own if n not in state and not n.endswith(".num_batches_tracked")]
    unexpected = [n for n in state if n not in own]
    different = [
        f"{n} is {_kind(state[n])}, must be {_kind(own[n])}"
        for n in own
        if n in state and _kind(state[n]) != _kind(own[n])
    ]
    if missing or unexpected or different:
        raise InputError(
            f"model.checkpoint={source}: does not fit {type(model).__name__}: {_some('missing', missing)}; "
            f"{_some('unexpected', unexpected)}; {_some('mis-shaped', different)}; choose the model= that was trained"
        )
    for name, value in state.items():
        _check_finite(name, value.to(own[name].dtype), source)
    model.load_state_dict(state, strict=False)


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write safetensors with a digest; a reader sees the old file or the whole new one.

    Raises:
        ValueError: a value is NaN or infinite; nothing is written.
        OSError: the folder cannot be written.
    """
    # safetensors wants plain layout and no shared memory
    plain = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in tensors.items()}
    for name, value in plain.items():
        if not torch.isfinite(value).all():
            raise ValueError(f"{path}: not written, {name} holds NaN or infinite values")
    write_tensors(path, plain, metadata)


def read_written(path: Path) -> Stored | None:
    """Tensors and metadata of a file that `write_checkpoint` wrote; None for a safetensors file of somebody else.

    Raises:
        InputError: no safetensors file, or damaged.
    """
    stored = read_tensors(path)
    if stored is not None:
        return stored
    try:
        ours = is_of_write_tensors(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if ours:
        raise InputError(f"model.checkpoint={path}: damaged, its digest is another; copy it again, or train it anew")
    return None


def _is_safetensors(path: Path) -> bool:
    """By name, or by the format's beginning: eight bytes of header length, then JSON."""
    with path.open("rb") as file:
        start = file.read(9)
    return path.suffix == ".safetensors" or start[8:] == b"{"


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    """Anybody's file; one that `write_checkpoint` wrote must be intact."""
    stored = read_written(path)
    return stored.tensors if stored is not None else safetensors.torch.load_file(path)


def _read_torch(path: Path) -> Any:
    try:
        _check_zip(path)
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; the error below says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to switch the protection off; only the name of what it refused is kept
        refused = re.search(r"GLOBAL (\S+)", str(error))
        what = f"holds {refused[1]}, not only tensors," if refused else "damaged, or holds more than tensors,"
        raise InputError(
            f"model.checkpoint={path}: {what} and is not opened, since that can run code; "
            "save it again with torch.save(model.state_dict(), PATH) or as safetensors"
        ) from error
    except Exception as error:  # a damaged file makes the unpickler stumble in any way
        raise _unreadable(path, error) from error


def _check_zip(path: Path) -> None:
    """Hold each record of a zip, which `torch.save` writes, against its CRC; `torch.load` itself does not.

    The older form, one pickle and then the numbers, has nothing to be held against.

    Raises:
        Exception: of many types, since a damaged file makes zipfile stumble in any way.
    """
    if not zipfile.is_zipfile(path):
        return
    with zipfile.ZipFile(path) as archive:
        record = archive.testzip()
    if record is not None:
        raise zipfile.BadZipFile(f"the checksum of its record {record} is another")


def _unreadable(path: Path, error: Exception) -> InputError:
    reason = f"{type(error).__name__}: {error}".splitlines()[0].split(". ")[0].strip(": ")
    return InputError(f"model.checkpoint={path}: cannot be read, truncated or not a checkpoint ({reason})")


def _innermost(stored: Any) -> dict[str, Tensor]:
    """The tensors of a state dict, or of the one that a training script put under one of the usual names."""
    if not isinstance(stored, Mapping):
        return {}
    for key in NESTED_UNDER:
        if isinstance(stored.get(key), Mapping):
            return _innermost(stored[key])
    return {name: value for name, value in stored.items() if isinstance(name, str) and isinstance(value, Tensor)}


def _without_wrappers(state: dict[str, Tensor]) -> dict[str, Tensor]:
    for prefix in WRAPPER_PREFIXES:
        if state and all(name.startswith(prefix) for name in state):
            return _without_wrappers({name.removeprefix(prefix): value for name, value in state.items()})
    return state


def _kind(tensor: Tensor) -> str:
    """Shape, and whether the numbers are real: an integer weight copied into a float model would look plausible."""
    return f"{tuple(tensor.shape)} {'float' if tensor.is_floating_point() else 'integer'}"


def _some(label: str, names: Iterable[str]) -> str:
    listed = list(names)
    if not listed:
        return f"0 {label}"
    more = ", ..." if len(listed) > NAMES_SHOWN else ""
    return f"{len(listed)} {label} ({', '.join(listed[:NAMES_SHOWN])}{more})"


def _check_finite(name: str, value: Tensor, source: str) -> None:
    if not torch.isfinite(value).all():
        count = int((~torch.isfinite(value)).sum())
        raise InputError(f"model.checkpoint={source}: {name} holds {count} NaN or infinite values; all must be finite")
