from runs_table import frame, run

from quant_sweep.report.measured import ACCURACY, Measured
from quant_sweep.report.points import Bits, read_points
from quant_sweep.report.sections import Section, split


def sections(*rows: dict[str, object]) -> list[Section]:
    runs = frame(*rows)
    return split(read_points(runs, "point"), read_points(runs, "float"))


def texts(section: Section) -> dict[tuple[str, str], str]:
    return {
        (str(row), column): f"{cell.measured.value:g}" if cell.measured else cell.status
        for (row, column), cell in section.cells.items()
    }


def test_rows_are_bits_and_columns_observers() -> None:
    (section,) = sections(
        run(bits=4, observer="hist", accuracy=60.0),
        run(bits=8, observer="mse", accuracy=91.0),
        run(bits=8, weight_bits=4, activation_bits=8, observer="mse", accuracy=80.0),
    )
    assert [str(row) for row in section.rows] == ["8", "W4A8", "4"]
    assert section.columns == ("hist", "mse")
    assert texts(section) == {
        ("8", "hist"): "–",
        ("8", "mse"): "91",
        ("W4A8", "hist"): "–",
        ("W4A8", "mse"): "80",
        ("4", "hist"): "60",
        ("4", "mse"): "–",
    }


def test_what_did_not_finish_has_its_status_and_no_number() -> None:
    (section,) = sections(
        run("failed", bits=8, accuracy=0.0), run("running", bits=6), run("killed", bits=5), run("finished", bits=4)
    )
    assert list(texts(section).values()) == ["failed", "running", "killed", "incomplete"]
    assert all(section.best(row) == () for row in section.rows)


def test_a_finished_run_hides_a_failed_one_of_another_key() -> None:
    (section,) = sections(run(accuracy=91.0), run("failed"))
    assert texts(section) == {("8", "mse"): "91"}


def test_every_other_difference_is_a_section() -> None:
    found = sections(
        run(fusion="none", seed=0, accuracy=90.0),
        run(fusion="bn", seed=0, accuracy=91.0),
        run(fusion="bn", seed=0, engine="builtin", reduce_range=True, accuracy=91.5),
    )
    assert [section.setting for section in found] == [
        "engine=builtin, fusion=bn, reduce_range=True",
        "engine=simulate, fusion=bn",
        "engine=simulate, fusion=none",
    ]
    assert len({section.slug for section in found}) == 3


def test_observer_parameters_that_differ_make_columns() -> None:
    (section,) = sections(
        run(observer="fake_hist", observer__percentile=99.9, observer__momentum=0.1, accuracy=1.0),
        run(observer="fake_hist", observer__percentile=99.99, observer__momentum=0.1, accuracy=2.0),
        run(observer="hist", observer__dst_bins=256, accuracy=3.0),
    )
    assert section.columns == ("fake_hist percentile=99.9", "fake_hist percentile=99.99", "hist")


def test_the_float_accuracy_comes_from_the_points_or_else_from_the_baseline() -> None:
    baseline = run(kind="float", accuracy=92.63, model="resnet32", key="f32")
    small, large = sections(baseline, run(accuracy=90.0), run("failed", model="resnet32"))
    assert small.original == Measured(ACCURACY, 91.73, 10000)
    assert large.original == Measured(ACCURACY, 92.63, 10000)
    (alone,) = sections(baseline, run("failed"))
    assert alone.original is None


def test_two_float_models_under_one_name_are_noticed() -> None:
    (section,) = sections(run(bits=8, accuracy=90.0), run(bits=4, accuracy=80.0, float_accuracy=70.0))
    assert section.mixed
    assert not sections(run(bits=8, accuracy=90.0), run(bits=4, accuracy=80.0))[0].mixed


def test_equal_cells_are_both_best() -> None:
    rows = [run(observer=name, accuracy=percent) for name, percent in [("hist", 91.0), ("mse", 91.0), ("minmax", 90.9)]]
    (section,) = sections(*rows)
    assert section.best(Bits.of({"bits": "8"})) == ("hist", "mse")


def test_paths_are_shortened_in_titles() -> None:
    first, _ = sections(run(model__checkpoint="/a/b/one.th", accuracy=1.0), run(model__checkpoint="/a/b/two.th"))
    assert first.title == "resnet20 on digits: model.checkpoint=one.th"
    assert "/" not in first.slug
