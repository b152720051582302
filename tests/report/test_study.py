"""The study's table finds its runs by their params alone, and shows no others."""

import pytest
from runs_table import frame, run

from quant_sweep.report.markdown import markdown
from quant_sweep.report.page import page
from quant_sweep.report.points import read_points
from quant_sweep.report.sections import split
from quant_sweep.report.study import study_rows

IMAGES = {"calibration__images": 6528, "calibration__batch_size": 128, "calibration__augment": True, "seed": 0}
COMMON = IMAGES | {"weight_observer": "minmax", "overrides": "{}"}
GRIDS = {"scheme__weight_per_channel": False, "scheme__weight_narrow_range": True}
CODE = COMMON | GRIDS | {"fusion": "none", "scheme": "symmetric", "calibration": "sequential"}
CODE |= {"scheme__activation_symmetric": True, "scheme__activation_narrow_range": True}
CODE |= {"calibration__update_batch_norm": True}
TEXT = COMMON | GRIDS | {"fusion": "none", "scheme": "affine", "calibration": "one_pass"}
TEXT |= {"scheme__activation_symmetric": False, "scheme__activation_narrow_range": False}
HIST = {"observer": "hist", "observer__dst_bins": "bits", "observer__merge_with_minmax": True}
FOUND = {"observer": "hist", "observer__dst_bins": None, "observer__merge_with_minmax": False}
LITE = {"observer": "fake_hist", "observer__percentile": 99.99, "observer__momentum": 0.1}
BUILTIN = COMMON | FOUND | {"engine": "builtin", "fusion": "conv_bn_relu", "scheme": "affine"}
ROWS = [
    "fp32 original",
    "8bit built-in",
    "8bit hist",
    "8bit fake-hist",
    "4bit hist",
    "4bit fake-hist",
    "3bit fake-hist",
]


def coded(**more: object) -> list[dict[str, object]]:
    """The runs of experiment=original, accuracies made up."""
    return [
        run(**BUILTIN | {"bits": 8} | more, accuracy=91.9),
        run(**CODE | HIST | {"bits": 8} | more, accuracy=91.6),
        run(**CODE | LITE | {"bits": 8} | more, accuracy=91.5),
        run(**CODE | HIST | {"bits": 4} | more, accuracy=54.2),
        run(**CODE | LITE | {"bits": 4} | more, accuracy=76.4),
        run(**CODE | LITE | {"bits": 3} | more, accuracy=20.8),
    ]


def table(*rows: dict[str, object]) -> list[dict[str, str]]:
    return study_rows(read_points(frame(*rows), "point"))


def column(rows: list[dict[str, str]], title: str) -> list[str]:
    return [line[title].split(" ")[0] for line in rows]


def test_the_table_is_the_studys_with_ours_beside_it() -> None:
    rows = table(*reversed(coded()))
    assert list(rows[0]) == ["Quantization", "ResNet-50, the study", "resnet20 (code)"]
    assert [line["Quantization"] for line in rows] == ROWS
    study = ["93.62%", "93.62%", "93.52%", "93.41%", "64.62%", "88.55%", "50.76%"]
    assert column(rows, "ResNet-50, the study") == study
    ours = ["91.73%", "91.90%", "91.60%", "91.50%", "54.20%", "76.40%", "20.80%"]
    assert column(rows, "resnet20 (code)") == ours
    assert rows[-1]["resnet20 (code)"] == "20.80% (20.02–21.61)"


def test_every_model_and_both_recipes_have_columns() -> None:
    text = [run(**TEXT | FOUND | {"bits": 4}, accuracy=77.0), run(**TEXT | LITE | {"bits": 3}, accuracy=19.5)]
    rows = table(*coded(), *text, *coded(model="resnet32"))
    assert list(rows[0])[2:] == ["resnet20 (code)", "resnet20 (text)", "resnet32 (code)"]
    assert column(rows, "resnet20 (text)") == ["91.73%", "91.90%", "–", "–", "77.00%", "–", "19.50%"]


def test_other_widths_are_sorted_in_and_the_study_has_none() -> None:
    mixed = run(**CODE | LITE | {"bits": 8, "weight_bits": 4, "activation_bits": 8}, accuracy=80.0)
    rows = table(*coded(), run(**CODE | HIST | {"bits": 6}, accuracy=90.0), mixed)
    labels = [line["Quantization"] for line in rows]
    assert labels == [*ROWS[:4], *labels[4:6], *ROWS[4:]]
    assert sorted(labels[4:6]) == ["6bit hist", "W4A8 fake-hist"]
    assert rows[4]["ResNet-50, the study"] == "–"


def test_repetitions_have_columns_named_by_what_differs() -> None:
    rows = table(*coded(), *coded(seed=1), *coded(model="resnet32"))
    assert list(rows[0])[2:] == ["resnet20 (code) seed=0", "resnet20 (code) seed=1", "resnet32 (code)"]


def test_what_did_not_finish_has_its_status() -> None:
    rows = table(run("failed", **CODE | HIST | {"bits": 4}), run("running", **CODE | LITE | {"bits": 4}))
    texts = {line["Quantization"]: line["resnet20 (code)"] for line in rows}
    assert (texts["4bit hist"], texts["4bit fake-hist"], texts["fp32 original"]) == ("failed", "running", "–")


@pytest.mark.parametrize(
    "other",
    [
        {"scheme__activation_narrow_range": False},
        {"calibration__update_batch_norm": False},
        {"calibration__augment": False},
        {"fusion": "bn"},
        {"observer__percentile": 99.9},
        {"observer": "mse"},
        {"weight_observer": "mse"},
        {"overrides": "{'input': 8}"},
    ],
    ids=str,
)
def test_another_recipe_is_not_the_study(other: dict[str, object]) -> None:
    assert table(run(**CODE | LITE | {"bits": 8} | other, accuracy=91.0)) == []


def test_a_built_in_run_alone_is_not_the_study() -> None:
    assert table(run(**BUILTIN | {"bits": 8}, accuracy=91.0)) == []


def test_the_page_has_the_table_where_there_is_one() -> None:
    for rows, shown in ((coded(), True), ([run(accuracy=90.0)], False)):
        points = read_points(frame(*rows), "point")
        assert ("The original study's table" in markdown(page(split(points, []), points))) is shown
