"""A person's two splits of inputs and labels, as data sets or as tensors, to one tensor each and to a `DataSet`."""

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

_ALLOWED = "uint8 images (n, channels, height, width), or float inputs (n, ...) that the network takes as they are"


def content_of(key: str, train: Any, test: Any) -> Decoded:
    """Both splits, and the names of their classes: the numbers, unless `train` has `classes` as torchvision's sets do.

    Args:
        key: what the person typed, for messages.
        train, test: a pair (inputs, labels) of tensors or arrays each, (n, ...) and (n,); or whatever has a length and
            gives (input, label) by number, as a `torch.utils.data.Dataset`.

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
    classes = 1 + max(int(train.labels.max()), int(test.labels.max()))
    if not isinstance(names, Sequence) or isinstance(names, str) or len(names) < classes:
        names = range(classes)
    return decoded([str(name) for name in names], train, test)


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
    elif hasattr(split, "__getitem__") and hasattr(split, "__len__") and not _is_array(split):
        inputs, labels = _read(key, split)
    else:
        raise InputError(
            f"{key}: is a {type(split).__name__}; allowed are a pair of tensors (inputs, labels) and a "
            "torch.utils.data.Dataset of (input, label)"
        )
    return _checked(key, inputs, labels)


def _checked(key: str, inputs: Tensor, labels: Tensor) -> ImageSet:
    """Inputs as uint8 or float32 and labels as int64.

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
    if labels.is_floating_point() or labels.dtype in (torch.bool, torch.complex64) or labels.shape != inputs.shape[:1]:
        raise InputError(
            f"{key}: labels are {labels.dtype} {tuple(labels.shape)} for {len(inputs)} inputs; "
            "allowed is the number of its class for each input"
        )
    if int(labels.min()) < 0:
        raise InputError(f"{key}: labels begin at {int(labels.min())}; allowed are numbers from 0")
    return ImageSet(inputs.contiguous(), labels.to(torch.int64).contiguous())


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _read(key: str, dataset: Any) -> tuple[Tensor, Tensor]:
    """All items, in their order."""
    count = len(dataset)
    inputs: Tensor | None = None
    labels = torch.empty(count, dtype=torch.int64)
    for index in tracked(range(count), f"reading {key}", count):
        value, labels[index] = _item(key, dataset[index], index)
        if inputs is None:
            inputs = torch.empty((count, *value.shape), dtype=value.dtype)
        if value.shape != inputs.shape[1:] or value.dtype != inputs.dtype:
            raise InputError(
                f"{key}: item {index} is {value.dtype} {tuple(value.shape)}, item 0 {inputs.dtype} "
                f"{tuple(inputs.shape[1:])}; all have to have one shape and type"
            )
        inputs[index] = value
    return (torch.empty(0) if inputs is None else inputs), labels


def _item(key: str, item: Any, index: int) -> tuple[Tensor, int]:
    if not isinstance(item, Sequence) or len(item) != 2:
        raise InputError(f"{key}: item {index} is a {type(item).__name__}; allowed is a pair (input, label)")
    value, label = item
    if isinstance(value, Image.Image):
        value = transforms.pil_to_tensor(value)
    if not _is_array(value):
        raise InputError(f"{key}: input {index} is a {type(value).__name__}; allowed are tensors, arrays, PIL images")
    number = label.tolist() if isinstance(label, Tensor | np.ndarray | np.generic) else label
    if isinstance(number, bool) or not isinstance(number, int):
        raise InputError(f"{key}: label {index} is {label!r}; allowed is the number of a class")
    tensor = torch.as_tensor(value)
    return (tensor.to(torch.float32) if tensor.is_floating_point() else tensor), number
