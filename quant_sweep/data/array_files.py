"""A person's own data in two files, npz or safetensors, of `inputs` and, if there are any, `labels`."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from quant_sweep.data.base import DataSet
from quant_sweep.data.samples import content_of, named
from quant_sweep.errors import InputError

_ALLOWED = "allowed: a file .npz or .safetensors that holds inputs, and labels if there are any"


def arrays(
    *, name: str, train: str | None, test: str | None, mean: Sequence[float] | None, std: Sequence[float] | None
) -> DataSet:
    """Read both files. Nothing in them is executed: an npz that holds Python objects is refused.

    Args:
        train, test: paths. Each file holds `inputs`, uint8 (n, channels, height, width) or float (n, ...), and
            `labels`, see `samples`, if there are any.
        mean, std: see `DataSet`; of uint8 images only.

    Raises:
        InputError: a file cannot be read or holds something else, or mean and std do not fit.
    """
    splits = _read("data.train", train), _read("data.test", test)
    return named(name, content_of(f"data.train={train} data.test={test}", *splits), mean, std)


def _read(key: str, path: str | None) -> Tensor | tuple[Tensor, Tensor]:
    if path is None:
        raise InputError(f"{key}=null: no file given; {_ALLOWED}")
    file = Path(path).expanduser()
    if not file.is_file():
        raise InputError(f"{key}={path}: no such file; {_ALLOWED}")
    try:
        found = _npz(file) if file.suffix == ".npz" else load_file(file)
        return (found["inputs"], found["labels"]) if "labels" in found else found["inputs"]
    except KeyError as error:
        raise InputError(f"{key}={path}: holds no {error}; {_ALLOWED}") from error
    except (OSError, ValueError, TypeError, SafetensorError, zipfile.BadZipFile) as error:
        raise InputError(f"{key}={path}: cannot be read ({' '.join(str(error).split())}); {_ALLOWED}") from error


def _npz(file: Path) -> Mapping[str, Tensor]:
    with np.load(file, allow_pickle=False) as stored:
        return {name: torch.from_numpy(stored[name]) for name in ("inputs", "labels") if name in stored}
