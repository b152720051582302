"""The commands end to end, on a network that was trained by one of them."""

import gc
import itertools
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from terminal import Outcome, Workspace, quick

from quant_sweep.cli import sweep
from quant_sweep.evaluation.qparams_table import COLUMNS

# Of points.csv; everything else is the same whenever it is measured.
TIMINGS = ["calibration_seconds", "evaluation_seconds", "images_per_second", "run_id"]
GRID = ("observer=minmax,mse", "bits=8,3")
THREE_POINTS = ("observer=minmax", "bits=8,4,3")
Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A working folder that several tests share, each with an experiment of its own."""
    return Workspace(tmp_path_factory.mktemp("store"))


@pytest.fixture
def client(store: Workspace) -> MlflowClient:
    return MlflowClient(f"sqlite:///{store.folder}/mlruns/mlflow.db")


def artifact(client: MlflowClient, run_id: str, name: str) -> Path:
    return Path(client.download_artifacts(run_id, name))


def comparable(path: Path) -> pd.DataFrame:
    return pd.read_csv(path).drop(columns=TIMINGS)


def test_training_leaves_weights_and_a_run(training: tuple[Workspace, Outcome]) -> None:
    place, outcome = training
    assert outcome.code == 0, outcome.err
    (run,) = place.runs("train").to_dict("records")
    assert run["status"] == "finished"
    assert run["params.model"] == "resnet8"
    assert run["params.train.epochs"] == "2"
    assert 0 < run["metrics.best_accuracy"] <= 100
    assert (place.folder / "outputs" / "train" / "resnet8-digits" / "best.safetensors").is_file()


def test_one_run_leaves_everything(store: Workspace, client: MlflowClient, sweeping: Arguments) -> None:
    outcome = store.type("quant-sweep", *sweeping("tracking.experiment=one", "observer=fake_hist", "bits=4", "seed=3"))
    assert outcome.code == 0, outcome.err
    (row,) = store.runs(experiment="one").to_dict("records")
    run = client.get_run(row["run_id"])
    wanted = {"model": "resnet8", "data": "digits", "observer": "fake_hist", "weight_observer": "minmax", "bits": "4"}
    wanted |= {"weight_bits": "4", "activation_bits": "4", "fusion": "conv_bn_relu", "scheme": "affine", "seed": "3"}
    wanted |= {"engine": "auto", "calibration": "one_pass", "calibration.images": "64", "device": "cpu"}
    wanted |= {"observer.percentile": "99.99", "observer.momentum": "0.1"}
    assert wanted.items() <= run.data.params.items()
    assert run.data.params["model.checkpoint"].endswith("best.safetensors")

    metrics = run.data.metrics
    assert metrics["test_images"] == 450
    assert metrics["drop"] == pytest.approx(metrics["float_accuracy"] - metrics["accuracy"])
    assert all(0 < metrics[name] <= 100 for name in ("accuracy", "float_accuracy", "agreement"))
    assert all(metrics[name] > 0 for name in ("calibration_seconds", "evaluation_seconds", "images_per_second"))
    assert 0.035 < metrics["model_size_mb"] < 0.05  # 78,000 weights of half a byte

    table = pd.read_csv(artifact(client, run.info.run_id, "qparams.csv"))
    assert list(table.columns) == COLUMNS
    activations = table[table["kind"] == "activation"].set_index("name")
    assert len(activations) > 6
    for name, grid in activations.iterrows():
        assert metrics[f"scale/{name}"] == pytest.approx(grid["scale"])
        assert metrics[f"zero_point/{name}"] == grid["zero_point"]
    assert table.loc[table["name"] == "conv1.weight", "channel"].tolist() == list(range(16))

    predictions = pd.read_csv(artifact(client, run.info.run_id, "predictions.csv"))
    right = predictions["prediction"] == predictions["label"]
    assert len(predictions) == 450
    assert metrics["accuracy"] == pytest.approx(100 * right.mean())
    assert metrics["float_accuracy"] == pytest.approx(
        100 * (predictions["float_prediction"] == predictions["label"]).mean()
    )
    assert metrics["agreement"] == pytest.approx(
        100 * (predictions["prediction"] == predictions["float_prediction"]).mean()
    )
    config = artifact(client, run.info.run_id, "config.yaml").read_text()
    assert "\nweight_bits: 4\n" in config
    assert "${" not in config

    (float_run,) = store.runs("float", "one").to_dict("records")
    assert float_run["status"] == "finished"
    assert float_run["metrics.accuracy"] == metrics["float_accuracy"]
    assert not store.report(experiment="one").exists(), "the report belongs to a multirun"


def test_multirun_then_again_then_forced(store: Workspace, sweeping: Arguments) -> None:
    arguments = ["-m", *sweeping("tracking.experiment=grid", *GRID)]
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
    assert "| bits" in first.out
    assert "Accuracy by bits and observer" not in first.out, "one screen"
    assert parent["members"].split(",") == points["run_id"].tolist()
    assert parent["metrics.best_accuracy"] == points["metrics.accuracy"].max()
    assert (parent["metrics.points"], parent["metrics.failed"]) == (4, 0)
    assert {"report.md", "points.csv"} <= {path.name for path in store.report(experiment="grid").parent.iterdir()}
    table = comparable(store.report("points.csv", "grid"))

    second = store.type("quant-sweep", *arguments)
    assert second.code == 0, second.err
    skipped = re.findall(r"accuracy ([\d.]+) \(skipped: same key finished as run (\w+)\)", second.out)
    assert {run_id for _, run_id in skipped} == set(points["run_id"])
    assert sorted(accuracy for accuracy, _ in skipped) == sorted(f"{value:.2f}" for value in points["metrics.accuracy"])
    assert len(store.runs(experiment="grid")) == 4
    assert len(store.runs("sweep", "grid")) == 1
    assert store.report(experiment="grid").read_text() == page

    third = store.type("quant-sweep", *arguments, "force=true")
    assert third.code == 0, third.err
    assert len(store.runs(experiment="grid")) == 8
    assert store.report(experiment="grid").read_text() == page
    pd.testing.assert_frame_equal(comparable(store.report("points.csv", "grid")), table)


def test_any_folder_and_any_name_of_an_experiment(store: Workspace, sweeping: Arguments) -> None:
    outcome = store.type(
        "quant-sweep", "-m", *sweeping("tracking.experiment=../../x", "bits=8"), "hydra.sweep.dir=.", "seed=1,2"
    )
    assert outcome.code == 0, outcome.err
    (parent,) = store.runs("sweep", "../../x").to_dict("records")
    assert set(store.runs(experiment="../../x")["parent"]) == {parent["run_id"]}
    reports = {path.name for path in (store.folder / "outputs" / "report").iterdir()}
    assert any(name.endswith("x_9cdf6a50") for name in reports)
    assert not (store.folder.parent / "x").exists()


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
    assert not re.search(r"(?<!\d)0\.00 \(", page)


def test_a_crash_is_shown_as_failed_never_as_zero(
    store: Workspace, sweeping: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quant_sweep.sweep import run

    original, calls = run.evaluate, itertools.count(1)

    def crashes_at_3_bits(*arguments):
        if next(calls) == 2:  # after 8 bits
            raise RuntimeError("the power went out")
        return original(*arguments)

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
    assert points["params.model"].tolist() == ["custom", "resnet8"]
    assert points["params.overrides"].tolist() == ["{}", "{'input': 8, 'linear': 6}"]
    study = store.type(
        "quant-sweep", *sweeping(*common), "calibration=sequential", "fusion=none", "calibration.update_batch_norm=true"
    )
    assert study.code == 0, study.err


def test_report_is_rebuilt_from_the_store_alone(store: Workspace, sweeping: Arguments) -> None:
    assert store.type("quant-sweep", "-m", *sweeping("tracking.experiment=rebuilt", "bits=8,4")).code == 0
    page = store.report("report.html", experiment="rebuilt").read_bytes()
    table = store.report("points.csv", "rebuilt").read_bytes()
    for file in store.report(experiment="rebuilt").parent.iterdir():
        file.unlink()
    outcome = store.type("quant-sweep-report", "tracking.experiment=rebuilt")
    assert outcome.code == 0, outcome.err
    assert store.report("report.html", experiment="rebuilt").read_bytes() == page
    assert store.report("points.csv", "rebuilt").read_bytes() == table
    assert "Report: outputs/report/rebuilt/report.html" in outcome.out
    wrong = store.type("quant-sweep-report", "tracking.experiment=rebuild")
    assert wrong.code == 2
    assert "tracking.experiment='rebuild': no such experiment" in wrong.err
    assert "rebuilt" in wrong.err


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Workspace:
    """A fresh store after one multirun of three points."""
    place = Workspace(tmp_path_factory.mktemp("undisturbed"))
    outcome = place.type("quant-sweep", "-m", *THREE_POINTS, *quick(checkpoint))
    assert outcome.code == 0, outcome.err
    return place


def assert_same_table(place: Workspace, other: Workspace) -> None:
    assert place.report().read_bytes() == other.report().read_bytes()
    assert comparable(place.report("points.csv")).to_csv() == comparable(other.report("points.csv")).to_csv()


@pytest.mark.slow
def test_killed_and_started_again_ends_with_the_same_report(
    workspace: Workspace, undisturbed: Workspace, sweeping: Arguments
) -> None:
    from quant_sweep.sweep import run

    original, calls = run.evaluate, itertools.count(1)

    def evaluate(*arguments):
        if next(calls) == 2:  # after the first point
            os.kill(os.getpid(), signal.SIGKILL)
        return original(*arguments)

    arguments = ["-m", *sweeping(*THREE_POINTS)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "evaluate", evaluate)
        dead = workspace.start("quant-sweep", *arguments)
    assert dead.wait() == -signal.SIGKILL, dead.log.read_text()
    assert workspace.runs()["status"].tolist() == ["finished", "running"]

    again = workspace.type("quant-sweep", *arguments)
    assert again.code == 0, again.err
    assert again.out.count("skipped: same key finished") == 1
    assert workspace.runs()["status"].value_counts().to_dict() == {"finished": 3, "killed": 1}
    assert_same_table(workspace, undisturbed)


@pytest.mark.slow
def test_three_processes_on_a_store_that_is_not_there(
    workspace: Workspace, undisturbed: Workspace, sweeping: Arguments
) -> None:
    processes = [workspace.start("quant-sweep", "-m", *sweeping(*THREE_POINTS)) for _ in range(3)]
    codes, logs = [process.wait() for process in processes], [process.log.read_text() for process in processes]
    assert codes == [0] * 3, logs
    assert "Traceback" not in "".join(logs)
    points = workspace.runs()
    assert points["status"].tolist() == ["finished"] * 3
    assert points["key"].nunique() == 3
    assert workspace.runs("float")["status"].tolist() == ["finished"]
    assert set(workspace.runs("sweep")["status"]) == {"finished"}
    assert sum(log.count("skipped: same key finished") for log in logs) == 6
    assert len(pd.read_csv(workspace.report("points.csv"))) == 3
    assert_same_table(workspace, undisturbed)


@pytest.mark.slow
def test_the_original_study_in_one_command(workspace: Workspace, checkpoint: Path) -> None:
    """Its rows, no others, in its table; and the text's beside the code's in the same experiment."""
    common = ["data=digits", *quick(checkpoint), "calibration.batch_size=32"]
    for experiment in ("original", "original_text"):
        outcome = workspace.type("quant-sweep", "-m", "--full", f"experiment={experiment}", *common)
        assert outcome.code == 0, outcome.err
    points = workspace.runs()
    assert points["status"].tolist() == ["finished"] * 11, "the built-in row is the same in both"
    lines = [line for line in outcome.out.splitlines() if line.startswith("|")]
    head, _, *rows = lines[:9]
    titles = [cell.strip() for cell in head.strip("|").split("|")]
    assert titles == ["Quantization", "ResNet-50, the study", "resnet8 (code)", "resnet8 (text)"]
    assert [row.split("|")[1].strip() for row in rows] == [
        *("fp32 original", "8bit built-in", "8bit hist", "8bit fake-hist"),
        *("4bit hist", "4bit fake-hist", "3bit fake-hist"),
    ]
    assert not any(cell.strip() in ("–", "failed", "") for row in rows for cell in row.strip("|").split("|"))
    coded = points[(points["params.observer"] == "hist") & (points["params.calibration"] == "sequential")]
    assert set(coded["params.observer.merge_with_minmax"]) == {"True"}
    assert set(coded["params.bits"]) == {"8", "4"}


def test_garbage_is_looked_for_among_what_jobs_make(
    store: Workspace, sweeping: Arguments, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not among all that is imported: that would wait for a quarter more of it."""
    before, seen, run_point = len(gc.get_objects()), [], sweep.run_point

    def counted(*given: Any) -> Any:
        outcome = run_point(*given)
        seen.append(len(gc.get_objects()))
        return outcome

    monkeypatch.setattr(sweep, "run_point", counted)
    outcome = store.type("quant-sweep", "-m", *sweeping("tracking.experiment=garbage", "bits=8,4"))
    assert outcome.code == 0, outcome.err
    assert len(seen) == 2
    assert max(seen) < before / 2
    assert gc.get_freeze_count() == 0
