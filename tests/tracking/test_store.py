import sqlite3
import time
from pathlib import Path

import pytest

from quant_sweep.errors import InputError
from quant_sweep.tracking import Tracker, read_runs
from quant_sweep.tracking.store import absolute_uri
from torture.server import free_port


def open_tracker(folder: Path, uri: str | None = None, experiment: str = "study") -> Tracker:
    return Tracker.open(uri or f"sqlite:///{folder}/mlflow.db", experiment, folder / "artifacts", folder / "locks")


def test_a_relative_database_becomes_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute_uri("sqlite:///mlruns/mlflow.db") == f"sqlite:///{tmp_path}/mlruns/mlflow.db"
    assert absolute_uri("sqlite:////data/mlflow.db?timeout=9") == "sqlite:////data/mlflow.db?timeout=9"
    assert absolute_uri("http://localhost:5000/") == "http://localhost:5000"


@pytest.mark.parametrize(
    "uri", ["./mlruns", "file:///tmp/mlruns", "", "sqlite://", "sqlite:///", "sqlite:///:memory:", "http://", "ftp://x"]
)
def test_a_store_that_cannot_be_used_names_those_that_can(uri: str) -> None:
    with pytest.raises(InputError, match=r"tracking\.uri=.*sqlite:///.*http") as caught:
        absolute_uri(uri)
    assert "\n" not in str(caught.value)


def test_artifacts_lie_in_the_given_folder(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    experiment = tracker.client.get_experiment(tracker.experiment_id)
    assert experiment.artifact_location == (tmp_path / "artifacts").as_uri()
    assert open_tracker(tmp_path).experiment_id == tracker.experiment_id


def test_an_unreachable_server_is_told_quickly(tmp_path: Path) -> None:
    begin = time.monotonic()
    with pytest.raises(InputError, match=r"tracking\.uri='http://127"):
        open_tracker(tmp_path, f"http://127.0.0.1:{free_port()}")
    assert time.monotonic() - begin < 8


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"tracking\.uri="):
        open_tracker(tmp_path, f"sqlite:///{tmp_path}/file/mlflow.db")
    with pytest.raises(InputError, match=r"tracking\.lock_dir="):
        Tracker.open(f"sqlite:///{tmp_path}/a.db", "study", tmp_path / "artifacts", tmp_path / "file" / "locks")
    with pytest.raises(InputError, match=r"tracking\.artifacts="):
        Tracker.open(f"sqlite:///{tmp_path}/a.db", "study", tmp_path / "file" / "artifacts", tmp_path / "locks")


def test_a_read_only_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *_: False)  # the superuser of a container may write anywhere
    with pytest.raises(InputError, match="read-only"):
        open_tracker(tmp_path)


def test_a_file_that_is_no_database(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"not a database at all" * 100)
    with pytest.raises(InputError, match=r"tracking\.uri=.*not a database"):
        open_tracker(tmp_path)


def test_a_database_of_another_mlflow_version(tmp_path: Path) -> None:
    open_tracker(tmp_path)
    other = tmp_path / "other.db"
    other.write_bytes((tmp_path / "mlflow.db").read_bytes())
    with sqlite3.connect(other) as connection:
        connection.execute("UPDATE alembic_version SET version_num = 'ffffffffffff'")
    with pytest.raises(InputError, match=r"tracking\.uri="):
        open_tracker(tmp_path, f"sqlite:///{other}")


def test_a_deleted_experiment(tmp_path: Path) -> None:
    tracker = open_tracker(tmp_path)
    tracker.client.delete_experiment(tracker.experiment_id)
    with pytest.raises(InputError, match=r"tracking\.experiment='study': was deleted"):
        open_tracker(tmp_path)


def test_reading_creates_nothing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such database"):
        read_runs(f"sqlite:///{tmp_path}/mlflow.db", "study")
    assert list(tmp_path.iterdir()) == []
    open_tracker(tmp_path)
    with pytest.raises(InputError, match=r"tracking\.experiment='stduy'.*study"):
        read_runs(f"sqlite:///{tmp_path}/mlflow.db", "stduy")
    assert read_runs(f"sqlite:///{tmp_path}/mlflow.db", "study").empty
