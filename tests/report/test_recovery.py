"""What recoveries won is the difference of runs that are alike but for one method."""

from report.runs_table import frame, run

from quant_sweep.report.markdown import markdown
from quant_sweep.report.page import page
from quant_sweep.report.points import read_points
from quant_sweep.report.recovery import recovery_rows
from quant_sweep.report.sections import split


def recovered(recovery: str, accuracy: float, seconds: float | None = None, **settings: object) -> dict[str, object]:
    made = run(accuracy=accuracy, recovery=recovery, **settings)
    return made if seconds is None else made | {"metrics.recovery_seconds": seconds}


def test_each_recovery_against_one_method_less() -> None:
    runs = frame(
        recovered("none", 50.0, bits=3),
        recovered("reconstruct", 85.0, 10.0, bits=3, recovery__reconstruct__rows=5),
        recovered("reconstruct+distill", 86.5, 40.0, bits=3),
        recovered("reconstruct", 90.0, 11.0, bits=4),
        recovered("bias", 70.0, 5.0, bits=3, overrides="{'input': 8}"),
        recovered("none", 91.0, bits=8),
    )
    rows = recovery_rows(read_points(runs, "point"))
    found = [(row["bits"], row["recovery"], row["won"], row["CPU seconds"]) for row in rows]
    assert found == [
        ("4", "reconstruct", "", "11.0"),
        ("3", "none", "", ""),
        ("3", "reconstruct", "+35.00", "10.0"),
        ("3", "reconstruct+distill", "+1.50", "40.0"),
        ("3", "bias", "", "5.0"),
    ]
    assert rows[-1]["settings"] == "overrides={'input': 8}"


def test_recoveries_are_columns_of_the_table() -> None:
    points = read_points(frame(recovered("none", 50.0), recovered("bias", 60.0), run(accuracy=40.0)), "point")
    (section,) = split(points, [])
    assert section.columns == ("mse", "mse, bias")
    assert section.setting == ""


def test_a_page_without_recoveries_says_nothing_of_them() -> None:
    for recovery, shown in (("none", False), ("bias", True)):
        points = read_points(frame(recovered(recovery, 90.0)), "point")
        assert ("What recovery won" in markdown(page(split(points, []), points))) is shown
