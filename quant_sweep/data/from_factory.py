"""A person's own data: any callable that can be imported and returns (train, test).

`data=custom data.factory=my_package.data:build data.kwargs={path: x}` calls `build(path="x")`. Each split is a
`torch.utils.data.Dataset` of (input, label) or a pair of tensors; float inputs of any shape are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from quant_sweep.data.base import DataSet, Decoded, data_set, decoded
from quant_sweep.data.cache import decoded_once
from quant_sweep.data.samples import samples_of
from quant_sweep.errors import InputError
from quant_sweep.runtime.callables import called, imported


def custom(
    *,
    name: str,
    factory: str,
    kwargs: Mapping[str, Any] | None,
    version: str | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    cache_dir: str,
) -> DataSet:
    """Import `factory`, call it, and read what it returns.

    Args:
        factory: `package.module:function`.
        kwargs: keyword arguments for it, if any.
        version: says which data this is: what was read under it is kept in the cache and not read again. None: read
            anew by each process.
        mean, std: see `DataSet`; of uint8 images only.

    Raises:
        InputError: it cannot be imported or called with these arguments, or returns something that cannot be used.
            What it raises itself passes through.
    """

    def read() -> Decoded:
        splits = called("data", factory, imported("data.factory", factory), dict(kwargs or {}))
        if not isinstance(splits, tuple | list) or len(splits) != 2:
            raise InputError(
                f"data.factory={factory}: returned a {type(splits).__name__}; it must return (train, test)"
            )
        return content_of(f"data.factory={factory}", *splits)

    if version is None:
        return named(name, read(), mean, std)
    source = {"factory": factory, "kwargs": dict(kwargs or {}), "version": str(version)}
    return named(name, decoded_once("custom", source, cache_dir, read), mean, std)


def content_of(key: str, train: Any, test: Any) -> Decoded:
    """Both splits and the names of their classes.

    Raises:
        InputError: see `samples_of`; or the splits do not go together.
    """
    names = getattr(train, "classes", None)
    train, test = samples_of(f"{key} train", train), samples_of(f"{key} test", test)
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
