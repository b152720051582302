"""The settings of `tracking` before anything is opened with them."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from quant_sweep.errors import InputError
from quant_sweep.tracking.names import LONGEST_NAME

_SQLITE = "sqlite:///"


def check_store(tracking: Mapping[str, Any], write: bool = False) -> None:
    """Refuse an address, a folder or a name that no store can have.

    Args:
        tracking: the node of that name.
        write: whether runs will be recorded: a database that is not there must be possible then.

    Raises:
        InputError: naming the key, the value and what is allowed.
    """
    for key in ("uri", "experiment", "artifacts", "lock_dir"):
        value = tracking.get(key)
        if not isinstance(value, str) or not value.strip() or not value.isprintable():
            raise InputError(f"tracking.{key}={value!r}: allowed is text that can be printed")
    if len(tracking["experiment"]) > LONGEST_NAME:
        raise InputError(f"tracking.experiment={tracking['experiment']}: allowed are up to {LONGEST_NAME} characters")
    uri = tracking["uri"]
    try:
        _ = urlsplit(uri).port
    except ValueError as error:
        raise InputError(f"tracking.uri={uri!r}: {error}; use http://HOST:PORT, with a number for PORT") from error
    if write and uri.startswith(_SQLITE):
        _check_folder(uri, Path(uri.removeprefix(_SQLITE).partition("?")[0]).absolute().parent)


def _check_folder(uri: str, folder: Path) -> None:
    """A database and the lock beside it need a folder in which files can be made: root may "write" to /proc."""
    if not folder.is_dir():
        return  # it is created, or cannot be: the store tells
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise InputError(
            f"tracking.uri={uri!r}: no file can be made in {folder} ({error.strerror}); use {_SQLITE}FOLDER/mlflow.db"
        ) from error
