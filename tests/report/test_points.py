import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from runs_table import frame, run

from quant_sweep.report.measured import ACCURACY, Measured, wilson
from quant_sweep.report.points import Bits, read_points


@pytest.mark.parametrize(
    ("correct", "images", "low", "high"),
    [(9173, 10000, 91.17, 92.25), (0, 10, 0.0, 27.75), (10, 10, 72.25, 100.0), (81, 263, 25.53, 36.62)],
)  # the last is the example of Newcombe 1998, table I: .2553 to .3662
def test_wilson(correct: int, images: int, low: float, high: float) -> None:
    assert wilson(correct, images) == pytest.approx((low, high), abs=0.01)


@given(st.integers(1, 100_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_holds_the_measured_value_and_stays_a_percentage(pair: tuple[int, int]) -> None:
    correct, images = pair
    low, high = Measured(ACCURACY, 100 * correct / images, images).interval
    assert 0 <= low <= 100 * correct / images + 1e-9
    assert 100 * correct / images - 1e-9 <= high <= 100
    assert low < high


@pytest.mark.parametrize(("correct", "images"), [(1, 0), (-1, 10), (11, 10), (math.nan, 10)])
def test_no_proportion(correct: float, images: int) -> None:
    with pytest.raises(ValueError, match="no proportion"):
        wilson(correct, images)


def test_bits_order_and_text() -> None:
    widths = [Bits.of({"bits": "4"}), Bits.of({"bits": "8", "weight_bits": "4", "activation_bits": "8"})]
    assert [str(width) for width in sorted(widths)] == ["4", "W4A8"]


def test_a_key_counts_once() -> None:
    runs = frame(
        run(key="a", accuracy=50.0),
        run(key="a", accuracy=60.0),  # forced
        run("failed", key="a", accuracy=1.0),
        run("killed", key="b"),
        run("running", key="b"),
        run(kind="float", key="c", accuracy=91.0),
    )
    points = {point.key: point for point in read_points(runs, "point")}
    assert sorted(points) == ["a", "b"]
    assert points["a"].measured == Measured(ACCURACY, 60.0, 10000)
    assert points["b"].status == "running"
    assert [point.key for point in read_points(runs, "float")] == ["c"]


def test_what_a_failed_run_left_is_no_accuracy() -> None:
    (point,) = read_points(frame(run("failed", accuracy=93.0)), "point")
    assert point.measured is None
