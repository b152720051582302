"""What the report claims: only what the numbers carry, and in the direction of the metric."""

from __future__ import annotations

from pathlib import Path

import pytest
from runs_table import frame, measured, run

from quant_sweep.report import build_report
from quant_sweep.report.answer import fewest_bits, short_result
from quant_sweep.report.measured import paired
from quant_sweep.report.points import read_points
from quant_sweep.report.sections import Section, split


def sections(*rows: dict[str, object]) -> list[Section]:
    return split(read_points(frame(*rows), "point"), [])


def answer(*rows: dict[str, object]) -> str:
    return fewest_bits(sections(*rows))


def mse(bits: int, value: float, error: float, observer: str = "mse") -> dict[str, object]:
    drop = value - 2.0
    numbers = {"mse": value, "mse_error": 0.01, "float_mse": 2.0, "drop": drop, "drop_error": error, "logit_sqnr": 20.0}
    return measured("mse", "", "lower", "mean", numbers, bits=bits, observer=observer)


def test_fewest_bits_are_shown_by_the_paired_difference() -> None:
    text = answer(run(bits=8, accuracy=91.70), run(bits=6, accuracy=91.40), run(bits=5, accuracy=90.0))
    assert text == (
        "resnet20 on digits: the fewest bits within 1 point of float are **6 bit** (mse): 91.40 (90.83–91.93) %."
    )


def test_of_equal_answers_the_first_column_is_given_whoever_ran_first() -> None:
    hist, mse = (run(bits=6, accuracy=91.40, observer=observer) for observer in ("hist", "mse"))
    assert answer(hist, mse) == answer(mse, hist)
    assert "**6 bit** (hist)" in answer(mse, hist)
    for rows in ((hist, mse), (mse, hist)):
        ways = [line["Quantization"] for line in short_result(sections(*rows))]
        assert ways == ["fp32 original", "6bit hist", "6bit mse"]


def test_a_small_difference_on_few_images_is_not_shown() -> None:
    few = run(bits=4, accuracy=90.73, images=100, float_accuracy=91.0)
    assert "**4 bit** (mse) stays within 1 point is not shown: its loss of 0.27 may be" in answer(few)
    assert "nothing that ran is shown" in answer(few)
    untold = {name: value for name, value in few.items() if name not in ("metrics.lost", "metrics.gained")}
    assert "does not say how its difference to float varies" in answer(untold)
    assert "nothing that ran stays within 1 point" in answer(run(bits=4, accuracy=80.0))


@pytest.mark.parametrize(("lost", "gained", "images"), [(0, 0, 20), (3, 1, 100), (50, 20, 1000), (0, 9, 9)])
def test_paired_differences_hold_their_value(lost: int, gained: int, images: int) -> None:
    low, high = paired(lost, gained, images)
    assert -100 <= low <= 100 * (lost - gained) / images * images / (images + 2) <= high <= 100
    assert high - low > 0  # none lost of few is no proof


def test_lower_is_better() -> None:
    rows = [mse(8, 2.01, 0.01), mse(8, 2.05, 0.01, "hist"), mse(4, 2.15, 0.01), mse(3, 2.19, 0.05)]
    (section,) = sections(*rows)
    assert section.best(section.rows[0]) == ("mse",)
    assert answer(*rows) == (
        "resnet20 on digits, MSE: the fewest bits within 10 % of float are **4 bit** (mse): 2.15 (2.13–2.17). "
        "That **3 bit** (mse) stays within 10 % is not shown: its loss of 0.19 may be 0.288 on 1,000 samples."
    )


def test_the_page_follows_the_metric(tmp_path: Path) -> None:
    report = build_report(frame(mse(8, 2.01, 0.01), mse(4, 3.0, 0.01), mse(4, 2.5, 0.01, "hist")), tmp_path)
    for text in ("## MSE by bits and observer", "MSE with its 95 % interval", "lower is better", "**2.5 (2.48–2.52)**"):
        assert text in report.text
    assert "ccuracy" not in report.text
    assert "noise ratio of the outputs against those in float, dB" in report.text
    assert "| 8      | –      | 20.0  |" in report.text
    assert {path.name.split("_")[0] for path in report.files} == {
        "report.html",
        "report.md",
        "points.csv",
        "metric",
        "heatmap",
        "pivot",
    }
    build_report(frame(run(accuracy=90.0)), tmp_path)
    assert not list(tmp_path.glob("metric_*"))


def test_two_metrics_are_two_tables_and_two_answers(tmp_path: Path) -> None:
    text = build_report(frame(mse(8, 2.01, 0.01), run(bits=8, accuracy=91.7, metric="top1")), tmp_path).text
    assert "## Results by bits and observer" in text
    assert "Short result: resnet20 on digits, MSE" in text
    assert "Short result: resnet20 on digits\n" in text


def with_metrics(row: dict[str, object], **metrics: float) -> dict[str, object]:
    return row | {f"metrics.{name}": value for name, value in metrics.items()}


def test_a_float_model_that_guesses_has_no_answer() -> None:
    row = with_metrics(run(bits=4, accuracy=10.0, float_accuracy=10.3), float_chance=10.0, chance=10.0)
    text = answer(row)
    assert "**no answer**" in text
    assert "guessing 10.00%" in text
    assert "model.checkpoint" in text
    one = measured("agreement", "%", "higher", "proportion", {"agreement": 100.0, "float_agreement": 100.0}, bits=4)
    one = with_metrics(one, float_classes_predicted=1, classes_predicted=1, chance=100.0, drop=0.0)
    assert "The float model says one class for all 1,000 samples" in answer(one)


def test_a_collapse_is_called_one(tmp_path: Path) -> None:
    sound = with_metrics(run(bits=8, accuracy=91.6), chance=10.0, classes_predicted=10, float_classes_predicted=10)
    one = with_metrics(run(bits=4, accuracy=10.0), chance=10.0, classes_predicted=1, float_classes_predicted=10)
    guess = with_metrics(run(bits=3, accuracy=10.2), chance=10.0, classes_predicted=7, float_classes_predicted=10)
    assert "collapses" not in answer(sound, one, guess)
    assert "**it collapses** at every width that ran; one class for all samples, where float has 10." in answer(
        one, guess
    )
    text = build_report(frame(sound, one, guess), tmp_path).text
    assert "**Collapsed** at 4 bits (resnet20 mse bn simulate): one class for all samples" in text
    assert (
        "**Collapsed** at 3 bits (resnet20 mse bn simulate): accuracy 10.20 %, where guessing reaches 10.00 %" in text
    )
    assert "(collapsed)" in text
    (section,) = sections(sound, one)
    assert section.best(section.rows[-1]) == ()  # nothing is best of what is broken


def test_agreement_near_chance_is_a_collapse() -> None:
    numbers = {"agreement": 1.5, "float_agreement": 100.0, "drop": 98.5, "chance": 1.2, "logit_sqnr": 3.0}
    row = measured("agreement", "%", "higher", "proportion", numbers, bits=4)
    assert "it collapses" in answer(row)
    near = measured("agreement", "%", "higher", "proportion", {**numbers, "agreement": 99.9, "drop": 0.1}, bits=6)
    assert "are **6 bit** (mse): 99.90" in answer(row, near)


def test_outputs_that_are_noise_are_a_collapse() -> None:
    assert "more noise than signal" in answer(mse(4, 9.0, 0.1) | {"metrics.logit_sqnr": -2.0})
