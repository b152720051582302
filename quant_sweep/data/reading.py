"""A person's data sets, item by item, into one file that is mapped: sets larger than the memory.

Items are read by number, each once, in as many processes as `data.workers` says, and written as they come.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms import functional as transforms

from quant_sweep.data.base import Decoded, parts_text
from quant_sweep.data.cache import read_intact
from quant_sweep.data.decode import SECONDS_WITHOUT_BAR
from quant_sweep.errors import InputError
from quant_sweep.runtime.tensor_file import writing_rows

UNLABELLED = 255  # where the labels of positions have it, nothing is known
_ITEMS_PER_TASK = 64  # of a worker
Item = tuple[Tensor, Tensor | None]


def read_into(path: Path, key: str, splits: Sequence[Any], names: Sequence[str] | None, workers: int) -> Decoded:
    """All items of both splits, in a file that appears at `path` whole or not at all.

    Args:
        key: what the person typed, for messages.
        splits: train and test: whatever has a length and gives (input, label) or an input by number.
        names: of the classes; None, or too few: their numbers.
        workers: processes that read items; 0: this one.

    Raises:
        InputError: an item cannot be used or is unlike the first, or the file cannot be written.
    """
    parts = {f"{key} {split}": items for split, items in zip(("train", "test"), splits, strict=True)}
    for label, items in parts.items():
        if len(items) == 0:
            raise InputError(f"{label}: holds nothing")
    shapes = {label: parts_of(items[0]) for label, items in parts.items()}
    firsts = {label: _item(label, items[0], 0) for label, items in parts.items()}
    check_splits(key, *firsts.values())
    if len(set(shapes.values())) > 1:
        raise InputError(f"{key}: train and test have inputs of other shapes; both have to have the same")
    layout = {
        f"{label.rpartition(' ')[2]}.{what}": (tensor.dtype, (len(items), *tensor.shape))
        for label, items in parts.items()
        for what, tensor in zip(("images", "labels"), firsts[label], strict=True)
        if tensor is not None
    }
    highest = -1

    def classes() -> dict[str, str]:
        found = next(iter(shapes.values()))
        return {"classes": json.dumps(named_classes(names, highest + 1)), **parts_text(found)}

    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing_rows(path, layout, classes) as write:
            for label, items in parts.items():
                split = label.rpartition(" ")[2]
                for index, (value, target) in enumerate(_read(label, items, workers, shapes[label])):
                    _check_like(label, (value, target), firsts[label], index)
                    write(f"{split}.images", index, value)
                    if target is not None:
                        highest = max(highest, highest_class(target))
                        write(f"{split}.labels", index, target)
    except OSError as error:
        raise InputError(
            f"cache_dir={path.parents[1]}: cannot write there ({error}); allowed: a writable folder"
        ) from error
    content = read_intact(path)
    if content is None:
        raise InputError(f"cache_dir={path.parents[1]}: {path.name} does not hold what was written; check the disk")
    return content


def named_classes(names: Any, count: int) -> list[str]:
    """The names of `count` classes: those given, or the numbers where they are none, or too few."""
    if not count or not isinstance(names, Sequence) or isinstance(names, str) or len(names) < count:
        return [str(number) for number in range(count)]
    return [str(name) for name in names]


def highest_class(labels: Tensor) -> int:
    """The highest class that labels name, of samples or of positions; -1 where they name none."""
    if labels.is_floating_point():
        return -1
    named = labels if labels.dim() == 0 else labels[labels != UNLABELLED]
    return int(named.max()) if named.numel() else -1


def check_splits(key: str, train: Item, test: Item) -> None:
    """Refuse splits that do not go together; of each an item.

    Raises:
        InputError: inputs differ in shape or type, or labels in kind.
    """
    (x, y), (u, v) = train, test
    if x.dtype != u.dtype or x.shape != u.shape:
        raise InputError(
            f"{key}: train holds {x.dtype} {tuple(x.shape)}, test {u.dtype} {tuple(u.shape)}; both have to hold inputs "
            "of one shape and type"
        )
    if (None if y is None else (y.dtype, y.dim())) != (None if v is None else (v.dtype, v.dim())):
        raise InputError(f"{key}: train and test have labels of two kinds; both need the same, or none")


def parts_of(item: Any) -> tuple[tuple[int, ...], ...]:
    """The shapes of the inputs of an item, ((a, b), label), where it has several; else none."""
    several = isinstance(item, tuple | list) and len(item) > 0 and isinstance(item[0], tuple | list)
    return tuple(tuple(_tensor(part).shape) for part in item[0] if is_input(part)) if several else ()


def _read(key: str, items: Any, workers: int, parts: tuple[tuple[int, ...], ...]) -> Iterator[Item]:
    """All items, in their order, with a progress bar on stderr when it takes more than a moment."""
    count, began = len(items), time.monotonic()
    with Progress(console=Console(stderr=True), transient=True, auto_refresh=False) as progress:
        bar = progress.add_task(f"reading {key}", total=count, visible=False)
        for index, item in enumerate(_in_order(items, workers)):
            if parts_of(item) != parts:
                raise InputError(f"{key}: item {index} has inputs of {parts_of(item)}, item 0 of {parts}")
            yield _item(key, item, index)
            if index % 64 == 0 and time.monotonic() - began > SECONDS_WITHOUT_BAR:
                progress.update(bar, completed=index, visible=True, refresh=True)


def _in_order(items: Any, workers: int) -> Iterator[Any]:
    if not workers:
        yield from (items[index] for index in range(len(items)))
        return
    for batch in DataLoader(items, batch_size=_ITEMS_PER_TASK, num_workers=workers, collate_fn=list):
        yield from batch


def _check_like(key: str, item: Item, first: Item, index: int) -> None:
    for what, part, like in zip(("", "label "), item, first, strict=True):
        now, then = ("none" if t is None else f"{t.dtype} {tuple(t.shape)}" for t in (part, like))
        if now != then:
            raise InputError(f"{key}: item {index} is {what}{now}, item 0 {then}; all have to have one shape and type")


def _item(key: str, item: Any, index: int) -> Item:
    """Input and label of an item, which may be a pair of both or an input alone, in the types that are kept."""
    if is_input(item):
        return _checked_input(key, _tensor(item), index), None
    if not isinstance(item, Sequence) or isinstance(item, str) or len(item) not in (1, 2):
        raise InputError(
            f"{key}: item {index} is a {type(item).__name__}; allowed is a pair (input, label), or an input"
        )
    value, label = (*item, None)[:2]
    if isinstance(value, tuple | list) and value and all(is_input(part) for part in value):
        tensors = [_tensor(part) for part in value]
        if not all(part.is_floating_point() for part in tensors):
            raise InputError(f"{key}: item {index} has several inputs, not all of them floats; allowed are floats")
        value = torch.cat([part.flatten() for part in tensors])
    if not is_input(value):
        raise InputError(f"{key}: input {index} is a {type(value).__name__}; allowed are tensors, arrays, PIL images")
    return _checked_input(key, _tensor(value), index), _label(key, label, index)


def _checked_input(key: str, value: Tensor, index: int) -> Tensor:
    if value.is_floating_point():
        if not bool(value.isfinite().all()):
            raise InputError(f"{key}: inputs hold NaN or infinity (item {index})")
    elif value.dtype != torch.uint8 or value.dim() != 3:
        raise InputError(f"{key}: inputs are {value.dtype} {tuple(value.shape)}; allowed are {ALLOWED_INPUTS}")
    return value


def _label(key: str, label: Any, index: int) -> Tensor | None:
    if label is None:
        return None
    if is_input(label):
        tensor = _tensor(label).squeeze(0) if isinstance(label, Image.Image) else _tensor(label)
        return checked_label(key, tensor)
    number = label.item() if isinstance(label, np.generic) else label
    if isinstance(number, bool) or not isinstance(number, int | float):
        raise InputError(f"{key}: label {index} is {label!r}; allowed is the number of a class, or a tensor of numbers")
    return checked_label(key, torch.tensor(number))


def checked_label(key: str, labels: Tensor) -> Tensor:
    """Labels, or one, in the types that are kept: int64, uint8 of positions, float32.

    Raises:
        InputError: they are flags, complex, below 0, NaN or infinite.
    """
    if labels.dtype == torch.bool or labels.is_complex():
        raise InputError(f"{key}: labels are {labels.dtype}; allowed is the number of a class, or a tensor of numbers")
    if labels.is_floating_point():
        if not bool(labels.isfinite().all()):
            raise InputError(f"{key}: labels hold NaN or infinity")
        return labels.to(torch.float32)
    if labels.numel() and int(labels.min()) < 0:
        raise InputError(f"{key}: labels begin at {int(labels.min())}; allowed are numbers from 0")
    return labels if labels.dtype == torch.uint8 and labels.dim() > 0 else labels.to(torch.int64)


ALLOWED_INPUTS = "uint8 images (channels, height, width), or float inputs that the network takes as they are"


def is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def is_input(value: Any) -> bool:
    return is_array(value) or isinstance(value, Image.Image)


def _tensor(value: Any) -> Tensor:
    tensor = transforms.pil_to_tensor(value) if isinstance(value, Image.Image) else torch.as_tensor(value)
    return tensor.to(torch.float32) if tensor.is_floating_point() else tensor
