"""What must hold between processes: each point once, and a killed one is neither lost nor counted."""

import os
import signal
from pathlib import Path
from time import monotonic, sleep

import pytest
from filelock import FileLock, Timeout
from test_store import open_tracker

from quant_sweep.tracking.failures import prepare_mlflow
from torture import forked
from torture.forked import Child
from torture.server import mlflow_server


def start(mode: str, folder: Path, *keys: str) -> Child:
    """A process that works on keys and prints each that it did."""

    def work() -> None:
        tracker = open_tracker(folder)
        parent = tracker.sweep("sweep")
        for key in keys:
            with tracker.lock(key):
                if tracker.find_finished(key) is not None:
                    continue
                with tracker.record(kind="point", key=key, name=key, params={"bits": 4}, parent=parent) as recorder:
                    recorder.metrics({"accuracy": 50.0})
                    if mode == "die":
                        os.kill(os.getpid(), signal.SIGKILL)
                    if mode == "hang":
                        print(recorder.run_id, flush=True)
                        sleep(600)
            print(key, flush=True)

    prepare_mlflow()  # imported once, not by each child
    return forked.start(work, folder, folder / f"{mode}-{'-'.join(keys)}.log")


def test_four_processes_on_a_store_that_does_not_exist(tmp_path: Path) -> None:
    keys = ["a", "b", "c", "d", "e"]
    workers = [start("work", tmp_path, *keys[turn:], *keys[:turn]) for turn in range(4)]
    codes, outputs = [worker.wait() for worker in workers], [worker.log.read_text() for worker in workers]
    assert codes == [0] * 4, outputs
    assert sorted("".join(outputs).split()) == keys

    runs = open_tracker(tmp_path).runs()
    points = runs[runs["kind"] == "point"]
    assert sorted(points["key"]) == keys
    assert set(points["status"]) == {"finished"}
    assert (runs["kind"] == "sweep").sum() == 1
    assert set(points["parent"]) == set(runs.loc[runs["kind"] == "sweep", "run_id"])


def test_a_killed_process_leaves_nothing_finished_and_no_lock(tmp_path: Path) -> None:
    dead = start("die", tmp_path, "a")
    assert dead.wait() == -signal.SIGKILL
    tracker = open_tracker(tmp_path)
    assert tracker.find_finished("a") is None
    assert list(tracker.runs().query("kind == 'point'")["status"]) == ["running"]

    second = start("work", tmp_path, "a")
    assert second.wait() == 0
    assert second.log.read_text().split() == ["a"]
    assert tracker.find_finished("a") is not None
    assert list(tracker.runs().query("kind == 'point'")["status"]) == ["killed", "finished"]


def test_a_key_is_taken_while_another_process_works_on_it(tmp_path: Path) -> None:
    other = start("hang", tmp_path, "a")
    try:
        end = monotonic() + 60
        while not (other.log.exists() and other.log.read_text().strip()):
            assert monotonic() < end
            sleep(0.05)
        with pytest.raises(Timeout):
            FileLock(tmp_path / "locks" / "a.lock").acquire(timeout=0.2)
    finally:
        other.send(signal.SIGKILL)
        other.wait()
    with open_tracker(tmp_path).lock("a"):
        pass  # free again


@pytest.mark.slow
def test_a_real_server(tmp_path: Path) -> None:
    with mlflow_server(tmp_path) as server:
        tracker = open_tracker(tmp_path, server.address)
        with tracker.record(kind="point", key="a", name="a", params={"bits": 4}) as recorder:
            recorder.metrics({f"scale/layer{i}": 0.5 for i in range(120)})
            recorder.text("index,class\n0,3\n", "tables/predictions.csv")
        with (
            pytest.raises(RuntimeError, match="gone"),
            tracker.record(kind="point", key="b", name="b", params={"bits": 3}),
        ):
            raise RuntimeError("gone")
        done = open_tracker(tmp_path, server.address + "/").find_finished("a")
        assert done is not None
        assert len(done.metrics) == 120
        assert tracker.load_artifact(done.run_id, "tables/predictions.csv").read_text() == "index,class\n0,3\n"
        assert list(tracker.runs()["status"]) == ["finished", "failed"]
    assert any((tmp_path / "kept").rglob("predictions.csv"))
    assert not (tmp_path / "artifacts").exists()
