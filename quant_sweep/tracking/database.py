"""The SQLite file of a local store: it appears whole or not at all, and what cannot be one is named.

MLflow makes its schema in hundreds of statements, each for itself. A process that died among them left a file that
no MLflow opens again, so the schema is made in a file of another name, which then takes the database's place. The
caller holds the lock of the store.
"""

from __future__ import annotations

import contextlib
import glob
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from quant_sweep.runtime.atomic_file import replacing

_WAIT_SECONDS = 20.0  # for another process that writes
_COMPANIONS = ("-journal", "-wal", "-shm")  # what SQLite keeps beside a database while it is written
_WRITTEN_AHEAD = 2  # of a header's two format bytes: the newest pages may lie in the -wal file


def create_whole(database: Path, artifacts: str) -> None:
    """Make the schema of a new store, its default experiment included.

    Args:
        database: not there, or without any table; its folder is there.
        artifacts: URI of the folder of the default experiment.

    Raises:
        OSError, SQLAlchemyError, MlflowException: it cannot be written; `database` is as it was.
    """
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    _remove_unfinished(database)
    try:
        with replacing(database) as unfinished, _without_waiting_for_the_disk(unfinished):
            store = SqlAlchemyStore(f"sqlite:///{unfinished}", artifacts)  # type: ignore[no-untyped-call]
            store.engine.dispose()
            for ending in _COMPANIONS:  # left by a database that was removed: SQLite would apply them to this one
                database.with_name(database.name + ending).unlink(missing_ok=True)
    finally:
        _remove_unfinished(database)


def is_empty(database: Path) -> bool:
    """Whether there is nothing to lose: no file, or one without any table.

    Raises:
        sqlite3.Error: it is no database, or damaged.
    """
    if not database.exists() or database.stat().st_size == 0:
        return True
    with contextlib.closing(_connect(database)) as connection:
        return not _tables(connection)


def why_unusable(database: Path) -> str | None:
    """What keeps MLflow from working with a database that is there; None if nothing is known that does.

    Waits up to 20 seconds for another process that writes.

    Raises:
        sqlite3.Error: it is no database, damaged, locked, or cannot be written.
    """
    with contextlib.closing(_connect(database)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        tables = _tables(connection)
        if "experiments" not in tables:
            return f"holds other tables than MLflow's ({', '.join(sorted(tables)[:3])})"
        with database.open("rb") as file:
            header = file.read(100)
        page_size, pages = int.from_bytes(header[16:18], "big"), int.from_bytes(header[28:32], "big")
        whole = (65536 if page_size == 1 else page_size) * pages
        if header[18] != _WRITTEN_AHEAD and database.stat().st_size < whole:
            return f"is cut off, {database.stat().st_size:,} of {whole:,} bytes are there; restore it from a copy"
    return None


def is_half_made(database: Path) -> bool:
    """Whether a database that MLflow cannot open has never held an experiment: its creation was interrupted."""
    try:
        with contextlib.closing(_connect(database)) as connection:
            return connection.execute("SELECT 1 FROM experiments LIMIT 1").fetchone() is None
    except sqlite3.Error:
        return False


@contextlib.contextmanager
def _without_waiting_for_the_disk(unfinished: Path) -> Iterator[None]:
    """Let SQLAlchemy write a file that nobody reads before it is whole and on the disk: hundreds of waits fewer."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def connected(connection: sqlite3.Connection, _record: object) -> None:
        if isinstance(connection, sqlite3.Connection) and _file_of(connection).name == unfinished.name:
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")

    event.listen(Engine, "connect", connected)
    try:
        yield
    finally:
        event.remove(Engine, "connect", connected)


def _file_of(connection: sqlite3.Connection) -> Path:
    return Path(connection.execute("PRAGMA database_list").fetchone()[2])


def _connect(database: Path) -> sqlite3.Connection:
    """Unlike `sqlite3.connect` alone, makes no file."""
    return sqlite3.connect(f"{database.absolute().as_uri()}?mode=rw", uri=True, timeout=_WAIT_SECONDS)


def _tables(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}


def _remove_unfinished(database: Path) -> None:
    """Files of a creation that was interrupted."""
    for path in database.parent.glob(f".{glob.escape(database.name)}.*.tmp*"):
        path.unlink(missing_ok=True)
