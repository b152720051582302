import random
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from runs_table import frame, run

from quant_sweep.errors import InputError
from quant_sweep.report import build_report
from quant_sweep.tracking import Tracker

STUDY = [
    run(kind="float", key="float", accuracy=91.73),
    run(engine="builtin", observer="minmax", bits=8, accuracy=91.7),
    *(run(observer=name, bits=bits, accuracy=91 - (8 - bits) * loss) for name, loss in (("hist", 9), ("fake_hist", 2))
      for bits in (8, 4)),
    run("failed", observer="hist", bits=3, error="RuntimeError: a | b"),
    run(observer="fake_hist", bits=3, accuracy=50.76),
]  # fmt: skip


def test_the_folder_holds_page_tables_and_pictures(tmp_path: Path) -> None:
    report = build_report(frame(*STUDY), tmp_path / "outputs" / "report")
    names = sorted(path.name for path in report.files)
    assert sorted(path.name for path in report.folder.iterdir()) == names
    assert [sum(name.startswith(kind) for name in names) for kind in ("accuracy_", "heatmap_", "pivot_")] == [2, 2, 2]
    page = (report.folder / "report.md").read_text()
    for picture in (name for name in names if name.endswith(".png")):
        assert f"]({picture})" in page
        assert (report.folder / picture).read_bytes().startswith(b"\x89PNG")
    assert ".png" not in report.text


def test_what_an_earlier_report_left_is_taken_away(tmp_path: Path) -> None:
    before = build_report(frame(*STUDY), tmp_path)
    (tmp_path / "mine.png").write_bytes(b"kept")
    after = build_report(frame(*STUDY[:2]), tmp_path)
    assert set(before.files) - set(after.files), "their names follow the settings that differ"
    assert set(tmp_path.iterdir()) == {*after.files, tmp_path / "mine.png"}


def test_the_short_result_has_the_shape_of_the_study(tmp_path: Path) -> None:
    text = build_report(frame(*STUDY), tmp_path).text
    rows = [line.split("|")[1].strip() for line in text.split("\n") if line.startswith("| ")]
    start = rows.index("Quantization") + 1
    eight, four = ["8bit built-in", "8bit fake-hist", "8bit hist"], ["4bit fake-hist", "4bit hist"]
    assert rows[start : start + 8] == ["fp32 original", *eight, *four, "3bit fake-hist", "3bit hist"]
    assert "the fewest bits within 1 point of float are **8 bit** (minmax, engine=builtin): 91.70" in text
    assert "| 3bit hist      | failed " in text


def test_the_page_marks_the_best_and_tells_errors(tmp_path: Path) -> None:
    text = build_report(frame(*STUDY), tmp_path).text
    assert "| 3      | **50.76 (49.78–51.74)** | failed" in text
    assert "RuntimeError: a \\| b" in text
    assert "`failed`:" in text
    assert "`running`:" not in text
    assert "`model=resnet20`" in text


def test_points_and_pivots_hold_the_numbers(tmp_path: Path) -> None:
    report = build_report(frame(*STUDY), tmp_path)
    points = pd.read_csv(tmp_path / "points.csv").set_index(["engine", "observer", "bits"])
    assert points.loc[("simulate", "fake_hist", 3), "accuracy"] == 50.76
    assert points.loc[("simulate", "fake_hist", 3), "accuracy_low"] == pytest.approx(49.78, abs=0.01)
    assert points.loc[("simulate", "hist", 3), "status"] == "failed"
    assert pd.isna(points.loc[("simulate", "hist", 3), "accuracy"])
    assert len(points) == 7
    assert "scale/conv1" not in points.columns
    (pivot,) = [path for path in report.files if path.name.startswith("pivot_") and "simulate" in path.name]
    table = pd.read_csv(pivot, index_col="bits")
    assert list(table.index) == ["float", "8", "4", "3"]
    assert table.loc["3", "hist"] == "failed"
    assert float(table.loc["float", "hist"]) == 91.73


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    shuffled = random.Random(0).sample(STUDY, len(STUDY))
    first = build_report(frame(*STUDY), tmp_path / "first")
    second = build_report(frame(*shuffled), tmp_path / "second")
    assert [path.name for path in first.files] == [path.name for path in second.files]
    for one, two in zip(first.files, second.files, strict=True):
        assert one.read_bytes() == two.read_bytes(), one.name


def test_an_interrupted_and_repeated_sweep_gives_the_same_page(tmp_path: Path) -> None:
    lost = [run("killed", key=STUDY[2]["key"], start_time=0), run("failed", key=STUDY[3]["key"], start_time=999)]
    for row, whole in zip(lost, STUDY[2:4], strict=True):
        row |= {name: value for name, value in whole.items() if name.startswith("params.")}
    undisturbed = build_report(frame(*STUDY), tmp_path / "a")
    assert build_report(frame(*STUDY, *lost), tmp_path / "b").text == undisturbed.text


@pytest.mark.parametrize("rows", [[], [run(kind="float", accuracy=91.0)]])
def test_an_experiment_without_points_says_so(tmp_path: Path, rows: list[dict[str, object]]) -> None:
    report = build_report(frame(*rows), tmp_path)
    assert "No points yet" in report.text
    assert [path.name for path in report.files] == ["report.html", "report.md"]


def test_nothing_finished_still_gives_a_page(tmp_path: Path) -> None:
    report = build_report(frame(run("failed", error="ValueError: x"), run("running", bits=4)), tmp_path)
    assert "no float accuracy is known yet" in report.text
    assert " 0.00" not in report.text


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="outputs_dir="):
        build_report(frame(*STUDY), tmp_path / "file" / "report")


def test_from_a_real_store(tmp_path: Path) -> None:
    tracker = Tracker.open(f"sqlite:///{tmp_path}/m.db", "study", tmp_path / "artifacts", tmp_path / "locks")
    assert "No points yet" in build_report(tracker.runs(), tmp_path / "report").text
    params = {"model": "resnet20", "data": "digits", "observer": "mse", "bits": 4}
    with tracker.record(kind="point", key="k", name="n", params=params, parent=tracker.sweep("s")) as recorder:
        recorder.metrics({"accuracy": 90.5, "float_accuracy": 91.0, "test_images": 1000, "scale/conv1": 0.1})
    assert "**90.50 (88.52–92.17)**" in build_report(tracker.runs(), tmp_path / "report").text


def test_the_report_needs_neither_torch_nor_pyplot() -> None:
    unwanted = "{'torch', 'matplotlib.pyplot', 'mlflow'}"
    code = f"import sys, quant_sweep.report; sys.exit(bool({unwanted} & set(sys.modules)))"
    subprocess.run([sys.executable, "-c", code], check=True)
