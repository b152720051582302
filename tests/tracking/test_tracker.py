import json
import math
import re
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from mlflow.utils.validation import _validate_metric_name
from test_store import open_tracker

from quant_sweep.tracking import SweepPage, Tracker, sweep_alive
from quant_sweep.tracking.names import stored_names


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One database for the module: to create one takes two seconds. Each test has its own experiment in it."""
    return tmp_path_factory.mktemp("store")


@pytest.fixture
def tracker(store: Path, request: pytest.FixtureRequest) -> Tracker:
    return open_tracker(store, experiment=request.node.name)


def test_a_finished_run_is_found_with_everything(tracker: Tracker) -> None:
    frame = pd.DataFrame({"image": [0, 1], "score": [0.1, 1 / 3]})
    params = {"bits": 4, "observer": "mse", "data.root": "", "force": False}
    with tracker.record(kind="point", key="k", name="mse 4", params=params, tags={"host": "x"}) as recorder:
        assert tracker.find_finished("k") is None
        recorder.metrics({"accuracy": 90.5, "scale/layer1.0.conv1.output": 0.25})
        recorder.table(frame, "tables/predictions.csv")
    done = tracker.find_finished("k")
    assert done is not None
    assert (done.run_id, done.name) == (recorder.run_id, "mse 4")
    assert done.params == {"bits": "4", "observer": "mse", "data.root": "", "force": "False"}
    assert done.metrics == {"accuracy": 90.5, "scale/layer1.0.conv1.output": 0.25}
    pd.testing.assert_frame_equal(pd.read_csv(tracker.load_artifact(done.run_id, "tables/predictions.csv")), frame)
    row = tracker.runs().iloc[0]
    assert (row["name"], row["status"], row["kind"], row["key"]) == ("mse 4", "finished", "point", "k")
    assert row["params.bits"] == "4"
    assert row["metrics.accuracy"] == 90.5
    assert tracker.client.get_run(done.run_id).data.tags["host"] == "x"


@pytest.mark.parametrize(
    ("error", "status"), [(ValueError("bad\nsecond line"), "failed"), (KeyboardInterrupt(), "killed")]
)
def test_an_exception_is_noted_and_goes_on(tracker: Tracker, error: BaseException, status: str) -> None:
    with pytest.raises(type(error)), tracker.record(kind="point", key="k", name="n", params={"bits": 3}):
        raise error
    assert tracker.find_finished("k") is None
    row = tracker.runs().iloc[0]
    assert row["status"] == status
    assert row["params.bits"] == "3"
    assert row["error"] == ("ValueError: bad" if status == "failed" else "KeyboardInterrupt: ")


def test_the_status_finished_of_mlflow_is_no_proof(tracker: Tracker) -> None:
    with (
        patch.object(type(tracker.client), "set_tag", side_effect=ConnectionError("cut")),
        pytest.raises(ConnectionError),
        tracker.record(kind="point", key="k", name="n", params={}),
    ):
        pass
    assert tracker.client.search_runs([tracker.experiment_id])[0].info.status == "FINISHED"
    assert tracker.find_finished("k") is None
    assert list(tracker.runs()["status"]) == ["running"]
    with tracker.record(kind="point", key="k", name="n", params={}):
        pass
    assert list(tracker.runs()["status"]) == ["killed", "finished"]


def test_the_newest_finished_run_is_found(tracker: Tracker) -> None:
    for accuracy in (1.0, 2.0):
        with tracker.record(kind="point", key="k", name="n", params={}) as recorder:
            recorder.metrics({"accuracy": accuracy})
    with pytest.raises(RuntimeError), tracker.record(kind="point", key="k", name="n", params={}):
        raise RuntimeError
    done = tracker.find_finished("k")
    assert done is not None
    assert done.metrics == {"accuracy": 2.0}


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_metric_that_is_not_finite_fails_the_run(tracker: Tracker, bad: float) -> None:
    with (
        pytest.raises(ValueError, match="scale/conv1 is"),
        tracker.record(kind="point", key="k", name="n", params={}) as recorder,
    ):
        recorder.metrics({"accuracy": 90.0, "scale/conv1": bad})
    row = tracker.runs().iloc[0]
    assert row["status"] == "failed"
    assert "metrics.accuracy" not in row


def test_many_metrics_are_one_request(tracker: Tracker) -> None:
    with tracker.record(kind="point", key="k", name="n", params={}) as recorder:
        with patch.object(
            type(tracker.client), "log_batch", autospec=True, side_effect=type(tracker.client).log_batch
        ) as log:
            recorder.metrics({f"loss{i}": 1.0 for i in range(120)}, step=1)
            assert log.call_count == 1
            recorder.metrics({f"scale/layer{i}": 1.0 for i in range(120)})
            recorder.tag("word", "x")
            assert log.call_count == 1, "they wait for the end of the run"
        recorder.metrics({f"zero_point/layer{i}": float(i) for i in range(2001)})
    done = tracker.find_finished("k")
    assert done is not None
    assert len(done.metrics) == 2241
    assert done.metrics["zero_point/layer2000"] == 2000.0


def test_any_name_is_stored_and_its_full_form_kept(tracker: Tracker) -> None:
    names = ["scale/layers[1]#x", "a[1", "a]1", "a_1", "größe", "x" * 300, "", "/abs", "../up", "a//b", "a/./b"]
    with tracker.record(kind="point", key="k", name="n", params={"overrides[0]": 1}) as recorder:
        recorder.metrics({name: float(value) for value, name in enumerate(names)})
        recorder.metrics({"a)1": 100.0, "a_1": 101.0})
    done = tracker.find_finished("k")
    assert done is not None
    assert done.metrics["scale/layers_1__x"] == 0.0
    assert done.params == {"overrides_0_": "1"}
    path = tracker.load_artifact(done.run_id, "names.json")
    assert path is not None
    full = json.loads(path.read_text())
    assert full.pop("overrides_0_") == "overrides[0]"
    values = {full.get(stored, stored): value for stored, value in done.metrics.items()}
    assert values == {**{name: float(value) for value, name in enumerate(names)}, "a)1": 100.0, "a_1": 101.0}


@given(st.lists(st.text() | st.text(alphabet="a_[./", max_size=6), max_size=12))
def test_stored_names_differ_and_suit_mlflow(names: list[str]) -> None:
    stored = stored_names(names, {})
    assert stored.keys() == set(names)
    assert len(set(stored.values())) == len(stored)
    for name in stored.values():
        _validate_metric_name(name)
        assert len(name) <= 250
    assert stored_names([*names, "another"], stored).items() >= stored.items()


def test_a_damaged_artifact_is_not_given_out(tracker: Tracker, store: Path) -> None:
    with tracker.record(kind="point", key="k", name="n", params={}) as recorder:
        recorder.text("1,2\n", "tables/a.csv")
    assert tracker.load_artifact(recorder.run_id, "tables/a.csv") is not None
    (path,) = (store / "artifacts" / recorder.run_id).rglob("a.csv")
    path.write_text("1,3\n")
    assert tracker.load_artifact(recorder.run_id, "tables/a.csv") is None
    path.unlink()
    assert tracker.load_artifact(recorder.run_id, "tables/a.csv") is None


def test_a_long_param_is_kept_whole(tracker: Tracker) -> None:
    text = "x" * 7000
    with tracker.record(kind="point", key="k", name="n", params={"overrides": text}) as recorder:
        pass
    done = tracker.find_finished("k")
    assert done is not None
    assert done.params["overrides"].startswith("sha256:")
    assert text in tracker.load_artifact(recorder.run_id, "long_params.json").read_text()


def test_a_sweep_is_one_parent(tracker: Tracker) -> None:
    parent = tracker.sweep("2026-11-23")
    assert tracker.sweep("2026-11-23") == parent
    assert tracker.sweep("another") != parent
    with tracker.record(kind="point", key="k", name="n", params={}, parent=parent):
        pass
    runs = tracker.runs().set_index("run_id")
    assert runs.loc[parent, "status"] == "running"
    assert list(runs.query("kind == 'point'")["parent"]) == [parent]
    tracker.finish_sweep(parent, SweepPage("the answer", {"points": 1}, {"report.html": b"<p>"}))
    row = tracker.runs().set_index("run_id").loc[parent]
    assert (row["status"], row["metrics.points"]) == ("finished", 1)
    assert tracker.load_artifact(parent, "report/report.html").read_bytes() == b"<p>"
    assert tracker.client.get_run(parent).data.tags["mlflow.note.content"] == "the answer"


def test_a_sweep_names_its_points(tracker: Tracker) -> None:
    many = [f"{number:032x}" for number in range(1000)]
    first = tracker.note_sweep("first", many, {"command": "quant-sweep -m"})
    row = tracker.runs().set_index("run_id").loc[first]
    assert (row["members"].split(","), row["tags.command"]) == (many, "quant-sweep -m")
    assert tracker.note_sweep("again", many, {}) != first, "the first was not finished"
    tracker.finish_sweep(first, SweepPage(""))
    assert tracker.note_sweep("third", many, {}) == first, "it has the same points"
    assert tracker.note_sweep("fourth", many[1:], {}) != first
    assert tracker.note_sweep("nothing", [], {}) is None


def test_the_address_opens_a_view_that_the_experiment_has(tracker: Tracker) -> None:
    address = tracker.address("http://127.0.0.1:7")
    assert address.startswith(f"http://127.0.0.1:7/#/experiments/{tracker.experiment_id}/runs?")
    name = re.search(r"viewStateShareKey=(\w+)", address)[1]
    view = json.loads(tracker.client.get_experiment(tracker.experiment_id).tags[f"mlflow.sharedViewState.{name}"])
    assert view["selectedColumns"][:3] == ["metrics.`accuracy`", "params.`bits`", "params.`observer`"]


def test_a_run_knows_who_made_it_and_from_what(tracker: Tracker) -> None:
    with tracker.record(kind="point", key="k", name="n", params={}) as recorder:
        recorder.dataset("calibration", "digits train", "f" * 64, "digits", 64)
    run = tracker.client.get_run(recorder.run_id)
    assert {"mlflow.user", "mlflow.source.name", "cpu", "python", "version.torch"} <= run.data.tags.keys()
    (used,) = run.inputs.dataset_inputs
    assert (used.dataset.name, used.dataset.digest, used.tags[0].value) == ("digits train", "f" * 36, "calibration")


def test_what_dead_processes_left_open_is_closed_by_the_next_sweep(tracker: Tracker) -> None:
    """A lock file that nobody holds stands for a process that died; one that is held, for one that works."""
    dead = tracker.sweep("dead")
    dead_point = tracker._create_run("n", {"quant_sweep.key": "d", "quant_sweep.kind": "point"})
    with sweep_alive(tracker.lock_dir, "dead"), tracker.lock("d"):
        pass
    died_at_the_end = tracker.sweep("end")
    tracker.client.set_terminated(died_at_the_end, "FINISHED")
    with sweep_alive(tracker.lock_dir, "end"):
        pass
    alive = tracker.sweep("alive")
    elsewhere = tracker.sweep("elsewhere")
    with sweep_alive(tracker.lock_dir, "alive"):
        tracker.sweep("next")
        status = tracker.runs().set_index("run_id")["status"]
        assert status[[dead, dead_point, died_at_the_end]].tolist() == ["killed"] * 3
        assert status[[alive, elsewhere]].tolist() == ["running"] * 2
    tracker.finish_sweep(tracker.sweep("next"), SweepPage(""))
    assert tracker.runs().set_index("run_id")["status"][[alive, elsewhere]].tolist() == ["killed", "running"]


def test_a_sweep_that_was_stopped_is_killed(tracker: Tracker) -> None:
    run_id = tracker.sweep("stopped")
    tracker.kill_sweep(run_id, KeyboardInterrupt("by hand"), SweepPage(""))
    row = tracker.runs().set_index("run_id").loc[run_id]
    assert (row["status"], row["error"]) == ("killed", "KeyboardInterrupt: by hand")


def test_a_file_keeps_its_name(tracker: Tracker, tmp_path: Path) -> None:
    (tmp_path / "model.bin").write_bytes(b"123")
    with tracker.record(kind="train", key="k", name="n", params={}) as recorder:
        recorder.file(tmp_path / "model.bin", "weights/model.bin")
        with pytest.raises(ValueError, match="own name"):
            recorder.file(tmp_path / "model.bin", "weights/other.bin")
    kept = tracker.load_artifact(recorder.run_id, "weights/model.bin")
    assert kept is not None
    assert kept.read_bytes() == b"123"


@pytest.mark.parametrize("key", ["", "a/b", "a'b", "a" * 201, "a\n"])
def test_a_key_that_is_no_file_name(tracker: Tracker, key: str) -> None:
    with pytest.raises(ValueError, match="key"):
        tracker.find_finished(key)


def test_an_empty_experiment_has_the_head_columns(tracker: Tracker) -> None:
    runs = tracker.runs()
    assert runs.empty
    assert {"run_id", "kind", "key", "status", "start_time", "error"} <= set(runs.columns)


def test_importing_the_package_does_not_import_mlflow() -> None:
    code = "import sys, quant_sweep.tracking; sys.exit('mlflow' in sys.modules or 'pandas' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
