"""A person's two splits of inputs and labels, as data sets or as tensors, to one tensor each and to a `DataSet`.

Labels are the number of a class, or a tensor: a class for each position (whole numbers), or numbers that the network
should return (floats). There may be none. Tensors stay in memory, data sets are read into a file; see `reading`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from quant_sweep.data.base import DataSet, Decoded, ImageSet, data_set, decoded
from quant_sweep.data.cache import write
from quant_sweep.data.reading import (
    ALLOWED_INPUTS,
    check_splits,
    checked_label,
    highest_class,
    is_array,
    named_classes,
    read_into,
)
from quant_sweep.errors import InputError


def content_of(
    key: str, train: Any, test: Any, path: Path | None = None, workers: int = 0, keep_tensors: bool = False
) -> Decoded:
    """Both splits, and the names of their classes: the numbers, unless `train` has `classes` as torchvision's sets do.

    Args:
        key: what the person typed, for messages.
        train, test: inputs (n, ...), or a pair (inputs, labels), as tensors or arrays; or whatever has a length and
            gives (input, label) or an input by number, as a `torch.utils.data.Dataset`.
        path: where data sets are read into; None: there are only tensors.
        workers: processes that read data sets.
        keep_tensors: write tensors to `path`, too.

    Raises:
        InputError: inputs or labels cannot be used, or the splits do not go together.
    """
    names = getattr(train, "classes", None)
    train, test = _by_row(f"{key} train", train), _by_row(f"{key} test", test)
    if not all(_are_tensors(split) for split in (train, test)):
        for split, what in ((train, "train"), (test, "test")):
            _check_readable(f"{key} {what}", split)
        assert path is not None
        splits = [_Rows(split) if _are_tensors(split) else split for split in (train, test)]
        return read_into(path, key, splits, names, workers)
    train, test = (_tensors_of(f"{key} {what}", split) for split, what in ((train, "train"), (test, "test")))
    check_splits(key, *((s.images[0], None if s.labels is None else s.labels[0]) for s in (train, test)))
    classes = 1 + max(-1 if split.labels is None else _highest(split.labels) for split in (train, test))
    content = decoded(named_classes(names, classes), train, test)
    if keep_tensors and path is not None:
        write(path, content)
    return content


def _highest(labels: Tensor) -> int:
    return int(labels.max()) if labels.dim() == 1 and not labels.is_floating_point() else highest_class(labels)


class _Rows:
    """A split of tensors, by number."""

    def __init__(self, split: Any) -> None:
        self.parts = [torch.as_tensor(part) for part in (split if isinstance(split, tuple | list) else [split])]

    def __len__(self) -> int:
        return len(self.parts[0])

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        return tuple(part[index] for part in self.parts)


def named(name: str, content: Decoded, mean: Sequence[float] | None, std: Sequence[float] | None) -> DataSet:
    """A data set whose normalisation is given where its inputs are images, and only there.

    Raises:
        InputError: it is not.
    """
    is_float = content.train.images.dtype == torch.float32
    for key, numbers in (("data.mean", mean), ("data.std", std)):
        if is_float and numbers is not None:
            raise InputError(f"{key}={numbers}: the inputs are float and taken as they are; allowed is null")
        if not is_float and numbers is None:
            raise InputError(f"{key}=null: the inputs are uint8 images; allowed is a number for each channel")
    return data_set(name, content, mean or (), std or ())


def _is_tuple_of_arrays(value: Any) -> bool:
    return isinstance(value, tuple | list) and len(value) > 0 and all(is_array(part) for part in value)


class _SeveralRows:
    """A split ((a, b, ...), labels) of tensors, by number."""

    def __init__(self, split: Any) -> None:
        self.inputs = [torch.as_tensor(part) for part in split[0]]
        self.labels = None if split[1] is None else torch.as_tensor(split[1])

    def __len__(self) -> int:
        return len(self.inputs[0])

    def __getitem__(self, index: int) -> tuple[tuple[Tensor, ...], Tensor | None]:
        return tuple(part[index] for part in self.inputs), None if self.labels is None else self.labels[index]


def _by_row(key: str, split: Any) -> Any:
    """Tensors of several inputs, ((a, b, ...), labels), as a data set; anything else as it is."""
    if not (isinstance(split, tuple | list) and len(split) == 2 and _is_tuple_of_arrays(split[0])):
        return split
    if not (is_array(split[1]) or split[1] is None):
        return split
    lengths = {len(part) for part in (*split[0], *([] if split[1] is None else [split[1]]))}
    if len(lengths) > 1:
        raise InputError(f"{key}: inputs and labels have {', '.join(map(str, sorted(lengths)))} rows; all need as many")
    return _SeveralRows(split)


def _are_tensors(split: Any) -> bool:
    pair = isinstance(split, tuple | list) and len(split) == 2 and all(is_array(part) for part in split)
    return pair or is_array(split)


def _check_readable(key: str, split: Any) -> None:
    items = hasattr(split, "__getitem__") and hasattr(split, "__len__") and not isinstance(split, str)
    if not items and not _are_tensors(split):
        raise InputError(
            f"{key}: is a {type(split).__name__}; allowed are a tensor of inputs, a pair of tensors (inputs, labels) "
            "and a torch.utils.data.Dataset of (input, label) or of inputs"
        )


def _tensors_of(key: str, split: Any) -> ImageSet:
    """Inputs as uint8 or float32, and labels as int64, uint8 or float32, in memory of their own.

    Raises:
        InputError: they are not of an allowed kind.
    """
    given = split if isinstance(split, tuple | list) else (split,)
    inputs, labels = (*(torch.as_tensor(part).clone() for part in given), None)[:2]  # which the person may change
    assert isinstance(inputs, Tensor)
    if len(inputs) == 0:
        raise InputError(f"{key}: holds nothing")
    if inputs.is_floating_point():
        inputs = inputs.to(torch.float32)
        if not bool(inputs.isfinite().all()):
            raise InputError(f"{key}: inputs hold NaN or infinity")
    elif inputs.dtype != torch.uint8 or inputs.dim() != 4:
        raise InputError(f"{key}: inputs are {inputs.dtype} {tuple(inputs.shape)}; allowed are {ALLOWED_INPUTS}")
    if labels is not None and labels.shape[:1] != (len(inputs),):
        raise InputError(
            f"{key}: labels are {labels.dtype} {tuple(labels.shape)} for {len(inputs)} inputs; "
            "allowed is the number of its class for each input, or a tensor of numbers"
        )
    return ImageSet(inputs.contiguous(), None if labels is None else _checked_labels(key, labels))


def _checked_labels(key: str, labels: Tensor) -> Tensor:
    kept = checked_label(key, labels).contiguous()
    return kept.to(torch.int64) if kept.dim() == 1 and not kept.is_floating_point() else kept
