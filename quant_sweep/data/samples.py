"""A person's two splits of inputs and labels, as data sets or as tensors, to one tensor each and to a `DataSet`.

Labels are the number of a class, or a tensor: a class for each position (whole numbers), or numbers that the network
should return (floats). There may be none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from quant_sweep.data.base import DataSet, Decoded, ImageSet, data_set, decoded
from quant_sweep.errors import InputError
from quant_sweep.runtime.progress import tracked

UNLABELLED = 255  # where the labels of positions have it, nothing is known
_ALLOWED = "uint8 images (n, channels, height, width), or float inputs (n, ...) that the network takes as they are"


def content_of(key: str, train: Any, test: Any) -> Decoded:
    """Both splits, and the names of their classes: the numbers, unless `train` has `classes` as torchvision's sets do.

    Args:
        key: what the person typed, for messages.
        train, test: inputs (n, ...), or a pair (inputs, labels), as tensors or arrays; or whatever has a length and
            gives (input, label) or an input by number, as a `torch.utils.data.Dataset`.

    Raises:
        InputError: inputs or labels cannot be used, or the splits do not go together.
    """
    names = getattr(train, "classes", None)
    train, test = _samples_of(f"{key} train", train), _samples_of(f"{key} test", test)
    if train.images.dtype != test.images.dtype or train.images.shape[1:] != test.images.shape[1:]:
        raise InputError(
            f"{key}: train holds {train.images.dtype} {tuple(train.images.shape[1:])}, test {test.images.dtype} "
            f"{tuple(test.images.shape[1:])}; both have to hold inputs of one shape and type"
        )
    kinds = [None if split.labels is None else (split.labels.dtype, split.labels.dim()) for split in (train, test)]
    if kinds[0] != kinds[1]:
        raise InputError(f"{key}: train and test have labels of two kinds; both need the same, or none")
    classes = max(_classes(train), _classes(test))
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) < classes or not classes:
        names = range(classes)
    return decoded([str(name) for name in names], train, test)


def _classes(split: ImageSet) -> int:
    """How many classes the labels name; 0 where they are none."""
    labels = split.labels
    if labels is None or labels.is_floating_point():
        return 0
    named = labels if labels.dim() == 1 else labels[labels != UNLABELLED]
    return 1 + int(named.max()) if named.numel() else 0


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


def _samples_of(key: str, split: Any) -> ImageSet:
    """Inputs and labels of a split.

    Args:
        key: what the person typed it for, and which split, for messages.
        split: a pair of tensors or arrays (inputs, labels); or whatever has a length and gives (input, label) by
            number, as a `torch.utils.data.Dataset`: inputs are tensors, arrays or PIL images of one shape.

    Raises:
        InputError: it is something else, empty, or its inputs or labels cannot be used.
    """
    if isinstance(split, tuple | list) and len(split) == 2 and all(_is_array(part) for part in split):
        inputs, labels = (torch.as_tensor(part).clone() for part in split)  # which the person may change, or share
    elif _is_array(split):
        inputs, labels = torch.as_tensor(split).clone(), None
    elif hasattr(split, "__getitem__") and hasattr(split, "__len__") and not isinstance(split, str):
        inputs, labels = _read(key, split)
    else:
        raise InputError(
            f"{key}: is a {type(split).__name__}; allowed are a tensor of inputs, a pair of tensors (inputs, labels) "
            "and a torch.utils.data.Dataset of (input, label) or of inputs"
        )
    return _checked(key, inputs, labels)


def _checked(key: str, inputs: Tensor, labels: Tensor | None) -> ImageSet:
    """Inputs as uint8 or float32, and labels as int64, uint8 or float32.

    Raises:
        InputError: they are not of an allowed kind.
    """
    if len(inputs) == 0:
        raise InputError(f"{key}: holds nothing")
    if inputs.is_floating_point():
        inputs = inputs.to(torch.float32)
        if not bool(inputs.isfinite().all()):
            raise InputError(f"{key}: inputs hold NaN or infinity")
    elif inputs.dtype != torch.uint8 or inputs.dim() != 4:
        raise InputError(f"{key}: inputs are {inputs.dtype} {tuple(inputs.shape)}; allowed are {_ALLOWED}")
    return ImageSet(inputs.contiguous(), None if labels is None else _checked_labels(key, labels, len(inputs)))


def _checked_labels(key: str, labels: Tensor, count: int) -> Tensor:
    if labels.shape[:1] != (count,) or labels.dtype == torch.bool or labels.is_complex():
        raise InputError(
            f"{key}: labels are {labels.dtype} {tuple(labels.shape)} for {count} inputs; "
            "allowed is the number of its class for each input, or a tensor of numbers"
        )
    if labels.is_floating_point():
        if not bool(labels.isfinite().all()):
            raise InputError(f"{key}: labels hold NaN or infinity")
        return labels.to(torch.float32).contiguous()
    if int(labels.min()) < 0:
        raise InputError(f"{key}: labels begin at {int(labels.min())}; allowed are numbers from 0")
    of_positions = labels.dim() > 1 and labels.dtype == torch.uint8
    return labels.contiguous() if of_positions else labels.to(torch.int64).contiguous()


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _read(key: str, dataset: Any) -> tuple[Tensor, Tensor | None]:
    """All items, in their order."""
    count = len(dataset)
    kept: list[Tensor | None] = []
    for index in tracked(range(count), f"reading {key}", count):
        item = _item(key, dataset[index], index)
        kept = kept or [None if p is None else torch.empty((count, *p.shape), dtype=p.dtype) for p in item]
        for what, whole, part in zip(("", "label "), kept, item, strict=True):
            _put(key, what, whole, part, index)
    inputs, labels = kept or (None, None)
    return (torch.empty(0) if inputs is None else inputs), labels


def _put(key: str, what: str, whole: Tensor | None, part: Tensor | None, index: int) -> None:
    """Keep an input or a label, if it is like the first."""
    if whole is None or part is None or part.shape != whole.shape[1:] or part.dtype != whole.dtype:
        if whole is None and part is None:
            return
        now, first = (
            "none" if t is None else f"{t.dtype} {tuple(t.shape)}" for t in (part, None if whole is None else whole[0])
        )
        raise InputError(f"{key}: item {index} is {what}{now}, item 0 {first}; all have to have one shape and type")
    whole[index] = part


def _item(key: str, item: Any, index: int) -> tuple[Tensor, Tensor | None]:
    """Input and label of an item, which may be a pair of both or an input alone."""
    if _is_input(item):
        return _tensor(item), None
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) not in (1, 2):
        raise InputError(
            f"{key}: item {index} is a {type(item).__name__}; allowed is a pair (input, label), or an input"
        )
    value, label = (*item, None)[:2]
    if not _is_input(value):
        raise InputError(f"{key}: input {index} is a {type(value).__name__}; allowed are tensors, arrays, PIL images")
    if label is None:
        return _tensor(value), None
    if _is_input(label):
        return _tensor(value), _tensor(label).squeeze(0) if isinstance(label, Image.Image) else _tensor(label)
    number = label.item() if isinstance(label, np.generic) else label
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{key}: label {index} is {label!r}; allowed is the number of a class, or a tensor of numbers")
    return _tensor(value), torch.tensor(number)


def _is_input(value: Any) -> bool:
    return _is_array(value) or isinstance(value, Image.Image)


def _tensor(value: Any) -> Tensor:
    tensor = transforms.pil_to_tensor(value) if isinstance(value, Image.Image) else torch.as_tensor(value)
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
