"""The commands end to end, on a network that was trained by one of them."""

import re
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
from conftest import Outcome, Workspace
from mlflow.tracking import MlflowClient

from quant_sweep.qparams_table import COLUMNS

# Of points.csv; everything else is the same whenever it is measured.
TIMINGS = ["calibration_seconds", "evaluation_seconds", "images_per_second", "run_id"]
GRID = ("observer=minmax,mse", "bits=8,3")
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A working folder that several tests share, each with an experiment of its own."""
    return Workspace(tmp_path_factory.mktemp("store"))


@pytest.fixture
def client(store: Workspace) -> MlflowClient:
    return MlflowClient(f"sqlite:///{store.folder}/mlruns/mlflow.db")


def artifact(store: Workspace, client: MlflowClient, run_id: str, name: str) -> Path:
    return Path(client.download_artifacts(run_id, name))


def comparable(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).drop(columns=TIMINGS)


def test_training_leaves_weights_and_a_run(training: tuple[Workspace, Outcome]) -> None:
    place, outcome = training
    assert outcome.code == 0, outcome.err
    (run,) = place.runs("train").to_dict("records")
    assert run["status"] == "finished"
    assert run["params.model"] == "resnet20"
    assert run["params.train.epochs"] == "2"
    assert 0 < run["metrics.best_accuracy"] <= 100
    assert (place.folder / "outputs" / "train" / "resnet20-digits" / "best.safetensors").is_file()


def test_one_run_leaves_everything(store: Workspace, client: MlflowClient, sweeping: Arguments) -> None:
    outcome = store.type("quant-sweep", *sweeping("tracking.experiment=one", "observer=fake_hist", "bits=4", "seed=3"))
    assert outcome.code == 0, outcome.err
    (row,) = store.runs(experiment="one").to_dict("records")
    run = client.get_run(row["run_id"])
    wanted = {"model": "resnet20", "data": "digits", "observer": "fake_hist", "weight_observer": "minmax", "bits": "4"}
    wanted |= {"weight_bits": "4", "activation_bits": "4", "fusion": "conv_bn_relu", "scheme": "affine", "seed": "3"}
    wanted |= {"engine": "simulate", "calibration": "one_pass", "calibration.images": "64", "device": "cpu"}
    wanted |= {"observer.percentile": "99.99", "observer.momentum": "0.1"}
    assert wanted.items() <= run.data.params.items()
    assert run.data.params["model.checkpoint"].endswith("best.safetensors")

    metrics = run.data.metrics
    assert metrics["test_images"] == 450
    assert metrics["drop"] == pytest.approx(metrics["float_accuracy"] - metrics["accuracy"])
    assert all(0 < metrics[name] <= 100 for name in ("accuracy", "float_accuracy", "agreement"))
    assert all(metrics[name] > 0 for name in ("calibration_seconds", "evaluation_seconds", "images_per_second"))
    assert 0.1 < metrics["model_size_mb"] < 0.2  # 270,000 weights of half a byte

    table = pd.read_csv(artifact(store, client, run.info.run_id, "qparams.csv"))
    assert list(table.columns) == COLUMNS
    activations = table[table["kind"] == "activation"].set_index("name")
    assert len(activations) > 15
    for name, grid in activations.iterrows():
        assert metrics[f"scale/{name}"] == pytest.approx(grid["scale"])
        assert metrics[f"zero_point/{name}"] == grid["zero_point"]
    assert table.loc[table["name"] == "conv1.weight", "channel"].tolist() == list(range(16))

    predictions = pd.read_csv(artifact(store, client, run.info.run_id, "predictions.csv"))
    right = predictions["prediction"] == predictions["label"]
    assert len(predictions) == 450
    assert metrics["accuracy"] == pytest.approx(100 * right.mean())
    assert metrics["float_accuracy"] == pytest.approx(
        100 * (predictions["float_prediction"] == predictions["label"]).mean()
    )
    assert metrics["agreement"] == pytest.approx(
        100 * (predictions["prediction"] == predictions["float_prediction"]).mean()
    )
    config = artifact(store, client, run.info.run_id, "config.yaml").read_text()
    assert "weight_bits: 4\n" in config.replace("bits_4", "4") or "weight_bits: bits_4" in config
    assert "${" not in config

    (float_run,) = store.runs("float", "one").to_dict("records")
    assert float_run["status"] == "finished"
    assert float_run["metrics.accuracy"] == metrics["float_accuracy"]
    assert not store.report(experiment="one").exists(), "the report belongs to a multirun"


def test_multirun_then_again_then_forced(store: Workspace, sweeping: Arguments) -> None:
    arguments = sweeping("-m", "tracking.experiment=grid", *GRID)
    arguments = ["-m", *[a for a in arguments if a != "-m"]]
    first = store.type("quant-sweep", *arguments)
    assert first.code == 0, first.err
    points, (parent,) = store.runs(experiment="grid"), store.runs("sweep", "grid").to_dict("records")
    assert len(points) == 4
    assert set(points["status"]) == {"finished"}
    assert set(points["parent"]) == {parent["run_id"]}
    assert parent["status"] == "finished"
    assert {(row["params.observer"], row["params.bits"]) for _, row in points.iterrows()} == {
        (observer, bits) for observer in ("minmax", "mse") for bits in ("8", "3")
    }
    assert points["metrics.float_accuracy"].nunique() == 1
    assert len(store.runs("float", "grid")) == 1
    page = store.report(experiment="grid").read_text()
    for accuracy in points["metrics.accuracy"]:
        assert f"{accuracy:.2f}" in page
    assert page.split("![")[0] in first.out or "| bits" in first.out
    assert {"report.md", "points.csv"} <= {path.name for path in store.report(experiment="grid").parent.iterdir()}
    table = comparable(store.report("points.csv", "grid"))

    second = store.type("quant-sweep", *arguments)
    assert second.code == 0, second.err
    skipped = re.findall(r"accuracy ([\d.]+) \(skipped: same key finished as run (\w+)\)", second.out)
    assert {run_id for _, run_id in skipped} == set(points["run_id"])
    assert sorted(accuracy for accuracy, _ in skipped) == sorted(f"{value:.2f}" for value in points["metrics.accuracy"])
    assert len(store.runs(experiment="grid")) == 4
    assert store.report(experiment="grid").read_text() == page

    third = store.type("quant-sweep", *arguments, "force=true")
    assert third.code == 0, third.err
    assert len(store.runs(experiment="grid")) == 8
    assert store.report(experiment="grid").read_text() == page
    pd.testing.assert_frame_equal(comparable(store.report("points.csv", "grid")), table)


def test_a_failing_job_leaves_the_others_done(store: Workspace, sweeping: Arguments) -> None:
    """builtin has no 4 bits."""
    common = sweeping("tracking.experiment=failing", "observer=minmax")
    outcome = store.type("quant-sweep", "-m", *common, "engine=builtin,simulate", "bits=4,8")
    assert outcome.code == 2, outcome.err
    assert "bits=4: engine=builtin has its own flow" in outcome.err
    assert "Traceback" not in outcome.err
    points = store.runs(experiment="failing")
    assert {(row["params.engine"], row["params.bits"]) for _, row in points.iterrows()} == {
        ("builtin", "8"),
        ("simulate", "4"),
        ("simulate", "8"),
    }
    assert set(points["status"]) == {"finished"}
    page = store.report(experiment="failing").read_text()
    assert page in outcome.out or "Accuracy by bits" in outcome.out
    assert "0.00 (" not in page


def test_a_crash_is_shown_as_failed_never_as_zero(
    store: Workspace, sweeping: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quant_sweep import run

    original = run.evaluate

    def crashes_at_3_bits(network, *arguments):
        if any(getattr(module, "qmax", 0) == 7 for module in network.modules()):
            raise RuntimeError("the power went out")
        return original(network, *arguments)

    monkeypatch.setattr(run, "evaluate", crashes_at_3_bits)
    common = sweeping("tracking.experiment=crash", "observer=minmax")
    outcome = store.type("quant-sweep", "-m", *common, "bits=8,3,4")
    assert outcome.code != 0
    points = store.runs(experiment="crash").set_index("params.bits")
    assert points["status"].to_dict() == {"8": "finished", "3": "failed", "4": "finished"}
    assert "the power went out" in outcome.out, "the log says what failed"
    page = store.report(experiment="crash").read_text()
    row = next(line for line in page.splitlines() if re.match(r"\|\s*3\s*\|", line))
    assert "failed" in row
    assert "the power went out" in page
    assert points["metrics.accuracy"].isna().to_dict() == {"8": False, "3": True, "4": False}

    monkeypatch.setattr(run, "evaluate", original)
    again = store.type("quant-sweep", "-m", *common, "bits=8,3,4")
    assert again.code == 0, again.err
    assert again.out.count("skipped: same key finished") == 2
    assert "failed" not in store.report(experiment="crash").read_text()


def test_what_the_config_files_show(store: Workspace, sweeping: Arguments) -> None:
    """The examples in comments: overrides by name, a model of one's own with arguments."""
    (store.folder / "own.py").write_text(
        "from torch import nn\n\n\ndef small(num_classes, width):\n"
        "    layers = nn.Conv2d(1, width, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36 * width, num_classes)\n"
        "    return nn.Sequential(*layers)\n"
    )
    common = ["tracking.experiment=shown", "calibration.images=64", "device=cpu"]
    own = store.type("quant-sweep", *common, "model=custom", "model.factory=own:small", "model.kwargs={width: 3}")
    assert own.code == 0, own.err
    given = store.type("quant-sweep", *sweeping(*common), "bits=4", "overrides={input: 8, linear: 6}")
    assert given.code == 0, given.err
    points = store.runs(experiment="shown")
    assert points["params.model"].tolist() == ["custom", "resnet20"]
    assert points["params.overrides"].tolist() == ["{}", "{'input': 8, 'linear': 6}"]
    study = store.type(
        "quant-sweep", *sweeping(*common), "calibration=sequential", "fusion=none", "calibration.update_batch_norm=true"
    )
    assert study.code == 0, study.err


def test_report_is_rebuilt_from_the_store_alone(store: Workspace, sweeping: Arguments) -> None:
    assert store.type("quant-sweep", "-m", *sweeping("tracking.experiment=rebuilt", "bits=8,4")).code == 0
    page = store.report(experiment="rebuilt").read_bytes()
    table = store.report("points.csv", "rebuilt").read_bytes()
    for file in store.report(experiment="rebuilt").parent.iterdir():
        file.unlink()
    outcome = store.type("quant-sweep-report", "tracking.experiment=rebuilt")
    assert outcome.code == 0, outcome.err
    assert store.report(experiment="rebuilt").read_bytes() == page
    assert store.report("points.csv", "rebuilt").read_bytes() == table
    assert "Report: outputs/report/rebuilt/report.md" in outcome.out
    wrong = store.type("quant-sweep-report", "tracking.experiment=rebuild")
    assert wrong.code == 2
    assert "tracking.experiment='rebuild': no such experiment" in wrong.err
    assert "rebuilt" in wrong.err


def test_two_stores_give_the_same_report(tmp_path: Path, sweeping: Arguments) -> None:
    places = [Workspace(tmp_path / name) for name in ("one", "two")]
    for place in places:
        place.folder.mkdir()
        outcome = place.type("quant-sweep", "-m", *sweeping(*GRID))
        assert outcome.code == 0, outcome.err
    assert places[0].report().read_bytes() == places[1].report().read_bytes()
    tables = [comparable(place.report("points.csv")) for place in places]
    assert tables[0].to_csv() == tables[1].to_csv()


@pytest.mark.slow
def test_killed_and_started_again_ends_with_the_same_report(tmp_path: Path, sweeping: Arguments) -> None:
    arguments = ["-m", *sweeping(*GRID, "batch_size=2")]  # small batches: evaluation takes its time
    place, undisturbed = Workspace(tmp_path / "killed"), Workspace(tmp_path / "undisturbed")
    place.folder.mkdir()
    undisturbed.folder.mkdir()
    process = place.start("quant-sweep", *arguments)
    while process.poll() is None and not is_at_work_after_one_point(place):
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert sorted(place.runs()["status"]) in (["finished", "running"], ["finished", "finished", "running"])

    again = place.type("quant-sweep", *arguments)
    assert again.code == 0, again.err
    assert "skipped: same key finished" in again.out
    assert undisturbed.type("quant-sweep", *arguments).code == 0
    assert place.report().read_bytes() == undisturbed.report().read_bytes()
    tables = [comparable(w.report("points.csv")) for w in (place, undisturbed)]
    assert tables[0].to_csv() == tables[1].to_csv()
    statuses = place.runs()["status"].value_counts().to_dict()
    assert statuses == {"finished": 4, "killed": 1}


def is_at_work_after_one_point(place: Workspace) -> bool:
    if not (place.folder / "outputs").is_dir() or not (place.folder / "mlruns" / "mlflow.db").exists():
        return False
    try:
        statuses = set(place.runs()["status"])
    except Exception:  # the database is being made
        return False
    return statuses == {"finished", "running"}


@pytest.mark.slow
def test_four_processes_on_a_store_that_is_not_there(workspace: Workspace, sweeping: Arguments) -> None:
    processes = [workspace.start("quant-sweep", "-m", *sweeping(*GRID)) for _ in range(4)]
    ended = [process.communicate(timeout=240) for process in processes]
    for process, (_, err) in zip(processes, ended, strict=True):
        assert process.returncode == 0, err
        assert "Traceback" not in err
    points = workspace.runs()
    assert points["status"].tolist() == ["finished"] * 4
    assert points["key"].nunique() == 4
    assert workspace.runs("float")["status"].tolist() == ["finished"]
    assert set(workspace.runs("sweep")["status"]) == {"finished"}
    assert sum(out.count("skipped: same key finished") for out, _ in ended) == 12
    assert len(pd.read_csv(workspace.report("points.csv"))) == 4
