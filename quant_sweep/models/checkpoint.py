"""Weights on disk: read without running code from the file, checked against the model, written atomically.

Reads safetensors, and PyTorch's own files through `torch.load(weights_only=True)`, which refuses every pickled object
that is not plain data. Every byte is checked that can be: against the digest of a file that was written here, against
the checksums of a zip. Sharded safetensors are read by their index. Leaves out: whole pickled modules, TorchScript,
ONNX; they are recognised and named.
"""

import logging
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

from quant_sweep.errors import InputError, printable
from quant_sweep.models.formats import is_index, shards, what_else
from quant_sweep.models.names import fitted
from quant_sweep.runtime.tensor_file import Stored, is_of_write_tensors, read_tensors, write_tensors

log = logging.getLogger(__name__)

__all__ = ["load_weights", "read_checkpoint", "read_written", "write_checkpoint"]

NESTED_UNDER = ("state_dict", "model_state_dict", "model", "net")
WRAPPER_PREFIXES = ("module.", "_orig_mod.")  # DataParallel, torch.compile
NAMES_SHOWN = 3


def read_checkpoint(path: Path, key: str | None = None) -> dict[str, Tensor]:
    """Read the tensors of a checkpoint, on the CPU, by the names that the bare model gives them.

    Args:
        path: of the file, or of the index of sharded safetensors.
        key: of the set to take where a file holds several, a.b for b in a; None: the usual names.

    Raises:
        InputError: no such file or key, unreadable or truncated, no checkpoint but something else that is known, a
            pickle that holds more than plain data, or no tensors.
    """
    if not path.is_file():
        raise InputError(f"model.checkpoint={path}: no such file; train it with quant-sweep-train or give a path")
    try:
        stored = _stored(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise _unreadable(path, error) from error
    if key is None:
        _say_averages(path, stored)
    state = _without_wrappers(_innermost(stored if key is None else _below(path, stored, key)))
    if not state:
        raise InputError(f"model.checkpoint={path}: holds no tensors; save model.state_dict()")
    return state


def _stored(path: Path) -> Any:
    if is_index(path):
        return {name: value for shard in shards(path) for name, value in _read_safetensors(shard).items()}
    if _is_safetensors(path):
        return _read_safetensors(path)
    if (what := what_else(path)) is not None:
        raise InputError(f"model.checkpoint={path}: {what}")
    return _read_torch(path)


def _below(path: Path, stored: Any, key: str) -> Any:
    """What lies at `key`."""
    found = stored
    for part in key.split("."):
        if not isinstance(found, Mapping) or part not in found:
            raise InputError(f"model.checkpoint_key={key}: {path} has no such key; {_sets(stored)}")
        found = found[part]
    if not _innermost(found):
        raise InputError(f"model.checkpoint_key={key}: no tensors lie there in {path}; {_sets(stored)}")
    return found


def _sets(stored: Any) -> str:
    named = [str(key) for key, value in stored.items() if _innermost(value)] if isinstance(stored, Mapping) else []
    return f"allowed are {', '.join(named)}" if named else "it holds one set of weights; leave the key out"


def _say_averages(path: Path, stored: Any) -> None:
    """Tell of other sets of weights beside the one that is taken."""
    if not isinstance(stored, Mapping):
        return
    sets = [str(key) for key, value in stored.items() if isinstance(value, Mapping) and _innermost(value)]
    taken = next((key for key in NESTED_UNDER if key in sets), None)
    others = [key for key in sets if key != taken and "optim" not in key]
    if taken is not None and others:
        names = ", ".join(others)
        log.info("%s: takes the weights under %s, not %s; model.checkpoint_key chooses", path, taken, names)


def load_weights(model: nn.Module, state: Mapping[str, Tensor], source: str, classes: int | None = None) -> None:
    """Copy `state` into `model`, all of it or nothing.

    BatchNorm's `num_batches_tracked`, which no result depends on, may be missing.

    Args:
        model: receives the values, converted to its own types.
        state: name -> tensor, as `read_checkpoint` gives it.
        source: where the weights come from, for the message.
        classes: of the images, where that is what the model was made for.

    Raises:
        InputError: names, shapes or kinds of number differ, or a value is NaN or infinite.
    """
    own = model.state_dict()
    found = fitted(own, state)
    state = found.state
    for note in found.notes:
        log.info("%s: %s", printable(source), printable(note))
    if classes is not None and (outputs := _other_outputs(own, state, classes)) is not None:
        raise InputError(
            f"model.checkpoint={source}: has {outputs} outputs, the images have {classes} classes; "
            "choose the data that it was trained on"
        )
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


def _other_outputs(own: Mapping[str, Tensor], state: Mapping[str, Tensor], classes: int) -> int | None:
    """How many classes a checkpoint was trained for, where that alone parts it from the model."""
    if any(name not in state for name in own if not name.endswith(".num_batches_tracked")):
        return None
    pairs = [(own[name].shape, state[name].shape) for name in own if name in state]
    different = [(ours, theirs) for ours, theirs in pairs if ours != theirs]
    outputs = {theirs[0] for ours, theirs in different if len(ours) == len(theirs) > 0 and ours[1:] == theirs[1:]}
    of_classes = all(len(ours) > 0 and ours[0] == classes for ours, _ in different)
    all_first = all(len(ours) == len(theirs) and ours[1:] == theirs[1:] for ours, theirs in different)
    return outputs.pop() if different and all_first and of_classes and len(outputs) == 1 else None


def _read_torch(path: Path) -> Any:
    try:
        _check_zip(path)
        with warnings.catch_warnings(action="ignore"):  # about pickle protocols; the error below says what matters
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own text advises to switch the protection off; only the name of what it refused is kept
        refused = re.search(r"GLOBAL (\S+)", str(error))
        if refused and _is_module(refused[1]):
            raise InputError(
                f"model.checkpoint={path}: is a whole module ({refused[1]}), which is code and is not opened; "
                "save its weights with torch.save(model.state_dict(), PATH) or as safetensors"
            ) from error
        what = f"holds {refused[1]}, not only tensors," if refused else "damaged, or holds more than tensors,"
        raise InputError(
            f"model.checkpoint={path}: {what} and is not opened, since that can run code; "
            "save it again with torch.save(model.state_dict(), PATH) or as safetensors"
        ) from error
    except Exception as error:  # a damaged file makes the unpickler stumble in any way
        raise _unreadable(path, error) from error


def _is_module(name: str) -> bool:
    """Whether a class that a pickle names is most likely a network: torch's and torchvision's, or a script's own."""
    last = name.rpartition(".")[2]
    known = name.startswith(
        ("torch.nn.modules", "torchvision.models", "timm.models", "__main__.", "quant_sweep.models")
    )
    return known and last[:1].isupper()


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
