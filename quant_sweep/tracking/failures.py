"""What a store does to a command that uses it, as one line: locked, full, damaged, gone.

MLflow and SQLAlchemy tell it with a traceback and the SQL statement. What MLflow calls an invalid value is a fault of
this program and keeps its traceback.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Iterator
from typing import TYPE_CHECKING

from quant_sweep.errors import InputError

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

ALLOWED = "use sqlite:///FOLDER/mlflow.db or the http(s) address of an MLflow server"
_KEPT = "finished points are kept; start the command again once the store can be used"
_OUR_FAULT = "INVALID_PARAMETER_VALUE"


def prepare_mlflow() -> None:
    """To be called before MLflow is imported: no telemetry, no progress bar for a file that lies here, no address of
    each run, and no traceback of its own for what becomes one line."""
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")  # two lines for each run on a server
    for name in ("mlflow.store.db.utils", "sqlalchemy.pool"):  # the latter of a signal while a connection is given back
        logging.getLogger(name).setLevel(logging.CRITICAL)
    logging.getLogger("alembic").setLevel(logging.WARNING)  # tells of every plugin that it loads


@contextlib.contextmanager
def opening(uri: str) -> Iterator[None]:
    """While a store is opened: whatever MLflow, SQLAlchemy, SQLite or the migrations raise is an InputError."""
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, SQLAlchemyError, CommandError, sqlite3.Error, OSError) as error:
        raise unusable(uri, error) from error


@contextlib.contextmanager
def using(client: MlflowClient) -> Iterator[None]:
    """While a run is read or written: what the store cannot do is an InputError."""
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except MlflowException as error:
        if error.error_code == _OUR_FAULT:
            raise
        raise InputError(f"tracking.uri={client.tracking_uri!r}: {one_line(error)}; {_KEPT}") from error
    except SQLAlchemyError as error:
        raise InputError(f"tracking.uri={client.tracking_uri!r}: {one_line(error)}; {_KEPT}") from error


@contextlib.contextmanager
def keeping(path: str) -> Iterator[None]:
    """While the artifact `path` is written or read: what its folder cannot do is an InputError."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise InputError(f"tracking.artifacts: {error.filename or path}: {reason}; {_KEPT}") from error


def unusable(uri: str, error: BaseException) -> InputError:
    """What to raise for a store that cannot be opened."""
    return InputError(f"tracking.uri={uri!r}: cannot be used ({one_line(error)}); {ALLOWED}")


def one_line(error: BaseException) -> str:
    """The first line of an error, or its type."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]
