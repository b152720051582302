"""A person's own data: any callable that can be imported and returns (train, test).

`data=custom data.factory=my_package.data:build data.kwargs={path: x}` calls `build(path="x")`. Each split is a
`torch.utils.data.Dataset` of (input, label) or of inputs, a pair of tensors or one of inputs; float inputs of any shape
are taken as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from quant_sweep.data.base import DataSet, Decoded
from quant_sweep.data.cache import decoded_once
from quant_sweep.data.samples import content_of, named
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
