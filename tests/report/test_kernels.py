"""The table of agreement shows the worst of what was measured, and nothing where nothing was."""

from report.runs_table import frame, run

from quant_sweep.report.kernels import agreement_rows
from quant_sweep.report.markdown import markdown
from quant_sweep.report.page import page
from quant_sweep.report.points import read_points
from quant_sweep.report.sections import split


def integer_run(same: float, lsb: float, share: float, **settings: object) -> dict[str, object]:
    names = ("simulate_images", "simulate_agreement", "simulate_largest_lsb", "simulate_differing_codes")
    measured = dict(zip(names, (32.0, same, lsb, share), strict=True))
    return run(accuracy=90.0, **settings) | {f"metrics.{name}": value for name, value in measured.items()}


def test_the_worst_of_each_width() -> None:
    runs = frame(
        integer_run(100.0, 0, 0.0, bits=8, observer="mse"),
        integer_run(96.875, 1, 1e-6, bits=8, observer="hist"),
        integer_run(100.0, 1, 2e-7, bits=4),
        run(accuracy=91.0, bits=3),
        run(status="failed", bits=2),
    )
    rows = agreement_rows(read_points(runs, "point"))
    assert [(row["bits"], row["runs"]) for row in rows] == [("8", "2"), ("4", "1")]
    assert rows[0]["same class"] == "96.88 %"
    assert rows[0]["largest difference"] == "1 LSB"
    assert rows[0]["codes that differ"] == "0.0001 %"


def test_a_page_without_integer_runs_says_nothing_of_them() -> None:
    for row, shown in ((run(accuracy=90.0), False), (integer_run(100.0, 0, 0.0), True)):
        points = read_points(frame(row), "point")
        assert ("Integer kernels" in markdown(page(split(points, []), points))) is shown
