"""`quant-sweep-allocate` end to end, and the file that it leaves in the command that takes it."""

from pathlib import Path

import pandas as pd
import pytest
from mlflow.tracking import MlflowClient
from terminal import Workspace, quick

from quant_sweep.quantization.assignment import read_assignment

FEW = ("calibration.images=64", "calibration.batch_size=32", "widths=[4,8]", "steps=1")


def test_a_search_leaves_a_run_and_a_file_for_the_sweep(tmp_path: Path, checkpoint: Path) -> None:
    place = Workspace(tmp_path)
    arguments = [*(a for a in quick(checkpoint) if not a.startswith("calibration.")), *FEW]
    outcome = place.type("quant-sweep-allocate", *arguments, "bits=4", "overrides={input: 8}", "budget.mean_bits=5")
    assert outcome.code == 0, outcome.err
    assert "Within budget.mean_bits=5, measured on 512 training images" in outcome.out
    file = tmp_path / outcome.out.rsplit("Assignment: ", 1)[1].strip()
    widths = read_assignment(file)
    assert widths["input"] == 8
    (run,) = place.runs("allocation").to_dict("records")
    assert (run["status"], run["metrics.bits/conv1.weight"]) == ("finished", float(widths["conv1.weight"]))
    client = MlflowClient(f"sqlite:///{place.folder}/mlruns/mlflow.db")
    table = pd.read_csv(client.download_artifacts(run["run_id"], "allocation.csv"))
    assert table["chosen"].sum() == 1
    for name in ("assignment.yaml", "allocation.png", "widths.csv"):
        assert (file.parent / name).read_bytes() == Path(client.download_artifacts(run["run_id"], name)).read_bytes()

    file.unlink()
    again = place.type("quant-sweep-allocate", *arguments, "bits=4", "overrides={input: 8}", "budget.mean_bits=5")
    assert "skipped, same key finished" in again.err + again.out
    assert read_assignment(file) == widths

    typed = [a for a in arguments if not a.startswith(("widths", "steps"))]
    swept = place.type("quant-sweep", *typed, "bits=4", f"overrides={file}")
    assert swept.code == 0, swept.err
    (point,) = place.runs("point").to_dict("records")
    assert point["params.overrides"] == str(widths)
    grids = pd.read_csv(client.download_artifacts(point["run_id"], "qparams.csv"))
    assert dict(zip(grids["name"], grids["bits"], strict=True)) == widths


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["budget=x"], "budget=x: allowed are like_uniform_2 to"),
        (["steps=0"], "steps=0: allowed are whole numbers from 1 to 100"),
        (["widths=4"], "widths=4: allowed is a list of bits"),
        (["engine=builtin", "bits=8", "observer=hist"], "engine=builtin: it has its own flow and one width"),
        (["recovery=[equalize,reconstruct]"], "recovery=equalize: the search for widths measures each tensor"),
        (["calibration.images=7"], "calibration.images=7: recovery keeps every 8th image"),
    ],
)
def test_mistakes(tmp_path: Path, checkpoint: Path, arguments: list[str], line: str) -> None:
    outcome = Workspace(tmp_path).type("quant-sweep-allocate", *quick(checkpoint), *arguments)
    assert outcome.code == 2
    assert outcome.err.strip().splitlines()[-1].startswith(f"quant-sweep-allocate: {line}")
