"""Where MLflow's pages are."""

import os
from pathlib import Path

import pytest
from terminal import Workspace

from quant_sweep.tracking import Tracker


def opened(folder: Path, experiment: str) -> Tracker:
    uri = f"sqlite:///{folder}/mlruns/mlflow.db"
    return Tracker.open(uri, experiment, folder / "mlruns" / "artifacts", folder / "mlruns" / "locks")


def test_it_prints_where_each_experiment_is_and_serves(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """An experiment without runs of ours is none."""
    with opened(workspace.folder, "mine").record(kind="point", key="k", name="n", params={}):
        pass
    opened(workspace.folder, "empty")
    served: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _program, words, _environment: served.append(words))
    outcome = workspace.type("quant-sweep-ui", "port=7000")
    assert outcome.code == 0, outcome.err
    (line,) = outcome.out.splitlines()
    assert line.startswith("mine: http://127.0.0.1:7000/#/experiments/")
    (words,) = served
    assert words[words.index("--backend-store-uri") + 1] == f"sqlite:///{workspace.folder}/mlruns/mlflow.db"
    assert words[words.index("--port") + 1] == "7000"


@pytest.mark.parametrize(
    ("arguments", "line"),
    [(["port=70000"], "port=70000: allowed are 1 to 65535"), ([], "no such database; run a sweep first")],
)
def test_mistakes(workspace: Workspace, arguments: list[str], line: str) -> None:
    outcome = workspace.type("quant-sweep-ui", *arguments)
    assert outcome.code == 2
    assert line in outcome.err
    assert len(outcome.err.splitlines()) == 1
