"""Open an MLflow store so that nothing can go wrong later: the address, the database, the experiment.

Processes that open a database that does not exist yet race in MLflow's migration and destroy it, so the first open and
the creation of an experiment happen under a file lock beside the database. Every way in which the store cannot be used
is an `InputError` within seconds (a locked database: after 20; a server that went away between two points: after a
minute); MLflow alone would try again for minutes. Left out: credentials, which MLflow reads from its own environment
variables.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from filelock import FileLock

from quant_sweep.errors import InputError
from quant_sweep.tracking.database import create_whole, is_empty, is_half_made, why_unusable
from quant_sweep.tracking.failures import ALLOWED, opening, prepare_mlflow, unusable
from quant_sweep.tracking.server import server_at

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

_SQLITE = "sqlite:///"


def absolute_uri(uri: str) -> str:
    """A tracking URI that means the same from every working folder.

    Raises:
        InputError: not an SQLite file nor an http(s) address.
    """
    if uri.startswith(_SQLITE) and len(uri) > len(_SQLITE) and ":memory:" not in uri:
        path, mark, options = uri.removeprefix(_SQLITE).partition("?")
        return _SQLITE + str(Path(path).absolute()) + mark + options
    if urlsplit(uri).scheme in ("http", "https") and urlsplit(uri).hostname:
        return uri.rstrip("/")
    raise InputError(f"tracking.uri={uri!r}: no store that can be used; {ALLOWED}")


def open_store(uri: str, experiment: str, artifacts: Path) -> tuple[MlflowClient, str]:
    """Connect, and create what is not there yet.

    Args:
        uri: as from `absolute_uri`.
        experiment: its name.
        artifacts: folder of a new experiment of a local store; a server keeps its own.

    Returns:
        the client and the experiment's id.

    Raises:
        InputError: the store cannot be reached or written, or the experiment was deleted.
    """
    database = _database(uri)
    if database is not None:
        make_folder(database.parent, "tracking.uri", uri)
        make_folder(artifacts, "tracking.artifacts", str(artifacts))
    location = artifacts.absolute().as_uri() if database is not None else None
    with _turn(uri, database), opening(uri):
        if database is not None and is_empty(database):
            create_whole(database, str(location))
        _probe(uri, database)
        client = _client(uri)
        found = _experiment_id(client, experiment)
        return client, found if found is not None else _create(client, experiment, location)


def open_existing(uri: str, experiment: str) -> tuple[MlflowClient, str]:
    """Connect to read; a misspelt name creates nothing.

    Raises:
        InputError: no such store or experiment; the message lists the experiments that are there.
    """
    with _reading(uri) as client:
        found = _experiment_id(client, experiment)
        if found is None:
            names = ", ".join(sorted(known.name for known in client.search_experiments())) or "none"
            raise InputError(f"tracking.experiment={experiment!r}: no such experiment in {uri}; there are: {names}")
        return client, found


def experiments(uri: str) -> list[str]:
    """The names of the experiments of a store that is there.

    Raises:
        InputError: no such store.
    """
    with _reading(uri) as client:
        return sorted(known.name for known in client.search_experiments())


@contextlib.contextmanager
def _reading(uri: str) -> Iterator[MlflowClient]:
    """A client of a store that is there, while it is this process's turn to open it."""
    database = _database(uri)
    if database is not None:
        with opening(uri):
            empty = is_empty(database)
        if empty:
            raise InputError(f"tracking.uri={uri!r}: no such database; run a sweep first, or name one that is there")
    with _turn(uri, database), opening(uri):
        _probe(uri, database)
        yield _client(uri)


def make_folder(folder: Path, key: str, value: str) -> None:
    """Create `folder`.

    Raises:
        InputError: naming `key` and `value`, if it cannot be created or written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{key}={value!r}: cannot create the folder {folder} ({error.strerror})") from error
    if not os.access(folder, os.W_OK):
        raise InputError(f"{key}={value!r}: the folder {folder} is read-only; choose one that you may write to")
    try:
        with TemporaryFile(dir=folder):  # /proc is writable and takes no file
            pass
    except OSError as error:
        raise InputError(f"{key}={value!r}: the folder {folder} takes no files ({error.strerror})") from error


def _database(uri: str) -> Path | None:
    """The file of an SQLite store; None for a server."""
    return Path(uri.removeprefix(_SQLITE).partition("?")[0]) if uri.startswith(_SQLITE) else None


@contextlib.contextmanager
def _turn(uri: str, database: Path | None) -> Iterator[None]:
    """Let one process at a time open a database; a half-made one that MLflow cannot open is named."""
    prepare_mlflow()
    if database is None:
        yield
        return
    lock = FileLock(database.with_name(f".{database.name}.init.lock"))
    try:
        lock.acquire()
    except OSError as error:
        raise unusable(uri, error) from error
    with lock:
        try:
            yield
        except InputError as error:
            if error.__cause__ is None or not is_half_made(database):
                raise
            raise InputError(
                f"tracking.uri={uri!r}: half-made, its creation was interrupted and no run is in it; "
                f"remove {database} and start again"
            ) from error


def _probe(uri: str, database: Path | None) -> None:
    """One quick question to the store before MLflow, which is patient, asks.

    Raises:
        InputError, OSError, sqlite3.Error: it cannot be used.
    """
    reason = None
    if database is None:
        server_at(uri).probe()
    else:
        reason = why_unusable(database)
    if reason is not None:
        raise InputError(f"tracking.uri={uri!r}: {reason}; {ALLOWED}")


def _client(uri: str) -> MlflowClient:
    from mlflow.tracking import MlflowClient

    return MlflowClient(tracking_uri=uri)


def _experiment_id(client: MlflowClient, name: str) -> str | None:
    found = client.get_experiment_by_name(name)
    if found is None:
        return None
    if found.lifecycle_stage != "active":
        raise InputError(
            f"tracking.experiment={name!r}: was deleted; choose another name, or bring it back with "
            f"`mlflow experiments restore --experiment-id {found.experiment_id}`"
        )
    return str(found.experiment_id)


def _create(client: MlflowClient, name: str, location: str | None) -> str:
    from mlflow.exceptions import MlflowException

    try:
        return str(client.create_experiment(name, artifact_location=location))
    except MlflowException:
        found = _experiment_id(client, name)  # through a server another process may have been first
        if found is None:
            raise
        return found
