"""A person's own data: any callable that can be imported and returns (train, test).

`data=custom data.factory=my_package.data:build data.kwargs={path: x}` calls `build(path="x")`. Each split is a
`torch.utils.data.Dataset` of (input, label) or of inputs, a pair of tensors or one of inputs; float inputs of any shape
are taken as they are.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from quant_sweep.data.base import DataSet, Decoded
from quant_sweep.data.cache import path_of, read_intact
from quant_sweep.data.samples import content_of, named
from quant_sweep.errors import InputError
from quant_sweep.runtime.callables import called, imported
from quant_sweep.runtime.disk_cache import made_once


def custom(
    *,
    name: str,
    factory: str,
    kwargs: Mapping[str, Any] | None,
    version: str | int | None,
    mean: Sequence[float] | None,
    std: Sequence[float] | None,
    cache_dir: str,
    workers: int = 0,
) -> DataSet:
    """Import `factory`, call it, and read what it returns.

    Args:
        factory: `package.module:function`.
        kwargs: keyword arguments for it, if any.
        version: says which data this is: what was read under it is kept in the cache and not read again. None: read
            anew by each process, which finds out by its content whether it is the same.
        workers: processes that read the items of data sets; 0: this one.
        mean, std: see `DataSet`; of uint8 images only.

    Raises:
        InputError: it cannot be imported or called with these arguments, or returns something that cannot be used.
            What it raises itself passes through.
    """

    if workers < 0:
        raise InputError(f"data.workers={workers}: allowed are whole numbers from 0")

    def read(path: Path, keep: bool) -> Decoded:
        splits = called("data", factory, imported("data.factory", factory), dict(kwargs or {}))
        if not isinstance(splits, tuple | list) or len(splits) != 2:
            raise InputError(
                f"data.factory={factory}: returned a {type(splits).__name__}; it must return (train, test)"
            )
        train, test = splits
        return content_of(f"data.factory={factory}", train, test, path, workers, keep)

    if version is None:
        return named(name, _under_its_digest(Path(cache_dir).expanduser() / "data", read), mean, std)
    path = path_of("custom", {"factory": factory, "kwargs": dict(kwargs or {}), "version": str(version)}, cache_dir)
    return named(name, made_once(path, read_intact, lambda: read(path, True), lambda _path, _content: None), mean, std)


def _under_its_digest(folder: Path, read: Callable[[Path, bool], Decoded]) -> Decoded:
    """What `read` reads, data sets into a file that is called after what it holds: there is one for equal data."""
    path = folder / f"custom-{uuid.uuid4().hex}.safetensors"
    try:
        content = read(path, False)
        if path.exists():
            path.replace(folder / f"custom-{content.digest[:32]}.safetensors")  # what is mapped stays mapped
        return content
    finally:
        path.unlink(missing_ok=True)
