"""The store is born whole: killed, full or damaged, it is never a ruin, and what is wrong with it is one line."""

import os
import resource
import signal
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient
from sqlalchemy import event
from sqlalchemy.engine import Engine
from test_store import open_tracker

from quant_sweep.errors import InputError
from quant_sweep.tracking import Tracker, database
from torture.creation import count_first_openings
from torture.forked import start

pytestmark = pytest.mark.usefixtures("schema_made_each_time")


def killed_at(statement: int, work: Callable[[], object]) -> Callable[[], None]:
    """`work`, which dies before it sends that statement to a database."""

    def dying() -> None:
        left = statement

        def count(*_: object) -> None:
            nonlocal left
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

        event.listen(Engine, "before_cursor_execute", count)
        work()

    return dying


def unfinished(folder: Path) -> list[Path]:
    return list(folder.glob(".mlflow.db.*.tmp*"))


def test_a_killed_creation_leaves_no_store_and_the_next_takes_no_notice(tmp_path: Path) -> None:
    for statement in (2, 90, 400, 800):
        child = start(killed_at(statement, lambda: open_tracker(tmp_path)), tmp_path, tmp_path / "log")
        assert child.wait() == -signal.SIGKILL, (tmp_path / "log").read_text()
        assert not (tmp_path / "mlflow.db").exists()
        assert len(unfinished(tmp_path)) == 1
    assert open_tracker(tmp_path).runs().empty
    assert not unfinished(tmp_path)


def test_a_half_made_database_of_an_older_version_is_named(tmp_path: Path) -> None:
    def older() -> None:
        MlflowClient(f"sqlite:///{tmp_path}/mlflow.db").search_experiments()

    assert start(killed_at(400, older), tmp_path, tmp_path / "log").wait() == -signal.SIGKILL
    before = (tmp_path / "mlflow.db").stat().st_size
    with pytest.raises(InputError, match=r"tracking\.uri=.*half-made.*remove .*mlflow\.db and start again") as caught:
        open_tracker(tmp_path)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "mlflow.db").stat().st_size >= before > 0, "what is there is not for us to delete"


def test_a_full_disk_leaves_nothing_behind(tmp_path: Path) -> None:
    def full() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))  # bytes; a new store has 700,000
        with pytest.raises(InputError, match=r"tracking\.uri=.*cannot be used") as caught:
            open_tracker(tmp_path)
        assert "\n" not in str(caught.value)

    child = start(full, tmp_path, tmp_path / "log")
    assert child.wait() == 0, (tmp_path / "log").read_text()
    assert not (tmp_path / "mlflow.db").exists()
    assert not unfinished(tmp_path)


@pytest.mark.slow
def test_processes_on_a_store_that_does_not_exist(tmp_path: Path) -> None:
    counts = count_first_openings(tmp_path, processes=6, points=3)
    assert counts == {"once": 3, "lost": 0, "twice": 0, "failed": 0}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The bytes of a store with an experiment."""
    folder = tmp_path_factory.mktemp("whole")
    open_tracker(folder)
    return (folder / "mlflow.db").read_bytes()


def refusal(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_tracker(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kept", [50, 3000, 0.5, 0.999])
def test_a_database_that_is_cut_off(tmp_path: Path, whole: bytes, kept: float) -> None:
    (tmp_path / "mlflow.db").write_bytes(whole[: int(kept * len(whole) if kept < 1 else kept)])
    assert refusal(tmp_path).startswith("tracking.uri='sqlite:///")


def test_a_database_that_another_process_holds(tmp_path: Path, whole: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "_WAIT_SECONDS", 0.1)
    (tmp_path / "mlflow.db").write_bytes(whole)
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("BEGIN EXCLUSIVE")
        assert "database is locked" in refusal(tmp_path)


def test_a_database_of_another_program(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "mlflow.db") as other:
        other.execute("CREATE TABLE songs (name TEXT)")
    assert "holds other tables than MLflow's (songs)" in refusal(tmp_path)


@pytest.mark.parametrize("leftover", ["mlflow.db", "mlflow.db-journal"])
def test_an_empty_database_is_none(tmp_path: Path, whole: bytes, leftover: str) -> None:
    """SQLite makes an empty file when it is asked to open none; a journal may stay when its database is removed."""
    (tmp_path / leftover).write_bytes(b"" if leftover == "mlflow.db" else whole[:5000])
    assert open_tracker(tmp_path).runs().empty
    assert not (tmp_path / "mlflow.db-journal").exists()


def test_a_database_that_is_damaged_while_a_run_is_written(tmp_path: Path, whole: bytes) -> None:
    (tmp_path / "mlflow.db").write_bytes(whole)
    tracker = open_tracker(tmp_path)

    def write(tracker: Tracker) -> None:
        with tracker.record(kind="point", key="k", name="n", params={}) as recorder:
            (tmp_path / "mlflow.db").write_bytes(whole[:100] + bytes(len(whole) - 100))
            recorder.metrics({"accuracy": 50.0})

    with pytest.raises(InputError, match=r"tracking\.uri=.*; finished points are kept") as caught:
        write(tracker)
    assert "\n" not in str(caught.value)
