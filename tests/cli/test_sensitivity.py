"""`quant-sweep-sensitivity` end to end, on a network that was trained for a moment."""

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import torch
from configured import composed
from mlflow.tracking import MlflowClient
from terminal import Outcome, Workspace, quick

from quant_sweep.cli.sensitivity import draw_test_images
from quant_sweep.errors import InputError
from quant_sweep.sweep.build import load_data, plain

Arguments = Callable[..., list[str]]


@pytest.fixture(scope="module")
def ranked(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> tuple[Workspace, Outcome]:
    """A store with one ranking on 100 images, after a sweep of one point."""
    place = Workspace(tmp_path_factory.mktemp("ranked"))
    assert place.type("quant-sweep", "-m", *quick(checkpoint), "bits=3").code == 0
    return place, place.type("quant-sweep-sensitivity", *quick(checkpoint), "bits=3", "images=100")


def test_a_ranking_leaves_a_run_a_table_and_a_chart(ranked: tuple[Workspace, Outcome]) -> None:
    place, outcome = ranked
    assert outcome.code == 0, outcome.err
    assert "100 of 450 test images, balanced over the classes" in outcome.out
    (run,) = place.runs("sensitivity").to_dict("records")
    assert run["status"] == "finished"
    assert (run["params.bits"], run["params.images"], run["params.observer"]) == ("3", "100", "mse")
    assert (run["metrics.test_images"], run["metrics.test_images_available"]) == (100, 450)
    assert run["params.engine"] == "simulate"

    client = MlflowClient(f"sqlite:///{place.folder}/mlruns/mlflow.db")
    table = pd.read_csv(client.download_artifacts(run["run_id"], "sensitivity.csv"))
    assert table["kind"].value_counts().to_dict() == {"network": 1, "layer": 8, "weight": 8, "activation": 9}
    for row in table.to_dict("records"):
        assert run[f"metrics.logit_kl/{row['name']}"] == pytest.approx(row["logit_kl"])
        assert run[f"metrics.accuracy_drop/{row['name']}"] == pytest.approx(row["accuracy_drop"])
    assert Path(client.download_artifacts(run["run_id"], "sensitivity.png")).read_bytes().startswith(b"\x89PNG")
    worst = table[table["kind"] == "layer"].iloc[0]["name"]
    rows = outcome.out.split("## Layers")[1].splitlines()
    assert rows[4].startswith(f"| {worst} ")
    chart = outcome.out.rsplit("Chart: ", 1)[1].strip()
    assert (place.folder / chart).read_bytes().startswith(b"\x89PNG")


def test_the_whole_network_is_the_point_of_a_sweep(ranked: tuple[Workspace, Outcome], checkpoint: Path) -> None:
    place, _ = ranked
    outcome = place.type(
        "quant-sweep-sensitivity", *quick(checkpoint), "bits=3", "tracking.experiment=all", "images=all"
    )
    assert outcome.code == 0, outcome.err
    assert "Measured on all 450 test images" in outcome.out
    (run,), (point,) = (
        place.runs(k, e).to_dict("records") for k, e in (("sensitivity", "all"), ("point", "quant_sweep"))
    )
    # The sweep chose integer kernels, which may round a tie the other way.
    assert run["metrics.accuracy_drop/whole network"] == pytest.approx(point["metrics.drop"], abs=0.5)
    assert run["metrics.float_accuracy"] == pytest.approx(point["metrics.float_accuracy"])


def test_the_report_of_the_sweep_does_not_see_it(ranked: tuple[Workspace, Outcome]) -> None:
    place, _ = ranked
    page = place.report().read_text()
    assert place.type("quant-sweep-report").code == 0
    assert place.report().read_text() == page


def test_a_finished_ranking_is_shown_again_from_the_store(
    ranked: tuple[Workspace, Outcome], checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from quant_sweep.cli import sensitivity

    place, first = ranked
    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "measure_sensitivity", lambda *_: pytest.fail("measured again"))
        again = place.type("quant-sweep-sensitivity", *quick(checkpoint), "bits=3", "images=100", "batch_size=10")
    assert again.code == 0, again.err
    assert "skipped, same key finished" in again.out
    assert again.out.split("# Sensitivity")[1] == first.out.split("# Sensitivity")[1]
    forced = place.type("quant-sweep-sensitivity", *quick(checkpoint), "bits=3", "images=100", "force=true")
    assert forced.out.split("# Sensitivity")[1] == first.out.split("# Sensitivity")[1]
    assert place.runs("sensitivity")["status"].tolist() == ["finished"] * 2


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["images=0"], "images=0: allowed are whole numbers from 1, and all for the 450 test images"),
        (["images=some"], "images=some: allowed are whole numbers from 1, and all"),
        (["images=2.5"], "images=2.5: allowed are whole numbers from 1, and all"),
        (["images=true"], "images=True: allowed are whole numbers from 1, and all"),
        (["engine=int8"], "engine=int8: most tensors stay in float here, which only simulate computes"),
        (["bits=1"], "bits=1: allowed are the whole numbers 2 to 16"),
        (["image=5"], "image=5: no such key; allowed are "),
        (["overrides={nonsense: 8}"], "overrides.nonsense: no quantized tensor"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_mistakes_are_one_line(workspace: Workspace, checkpoint: Path, arguments: list[str], line: str) -> None:
    outcome = workspace.type("quant-sweep-sensitivity", *quick(checkpoint), *arguments)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err + outcome.out
    assert f"quant-sweep-sensitivity: {line}" in outcome.err
    assert "# Sensitivity" not in outcome.out


def test_the_images_are_balanced_and_drawn_by_the_seed(tmp_path: Path) -> None:
    data = load_data(plain(composed(f"cache_dir={tmp_path}").data))
    chosen = draw_test_images(data, 100, seed=0)
    assert torch.bincount(data.test.labels[chosen]).tolist() == [10] * 10
    assert torch.equal(chosen, draw_test_images(data, 100, seed=0))
    assert not torch.equal(chosen, draw_test_images(data, 100, seed=1))
    for everything in ("all", None, 450, 10_000):
        assert torch.equal(draw_test_images(data, everything, seed=0), torch.arange(450))
    for refused in (-1, 0, True, 1.5, "some", [5]):
        with pytest.raises(InputError, match="images="):
            draw_test_images(data, refused, seed=0)
