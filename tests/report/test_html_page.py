"""The report that can be sent."""

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
from ranking import table
from runs_table import frame, run
from whole_page import pictures_of

from quant_sweep.report import build_report, build_sensitivity_report
from quant_sweep.report.curves import curve, front_of
from quant_sweep.report.document import Chart, Document, Links, Mark, Series
from quant_sweep.report.failed_jobs import by_error
from quant_sweep.report.html import html
from quant_sweep.report.markdown import markdown
from quant_sweep.report.points import read_points
from quant_sweep.report.sections import split
from quant_sweep.report.svg_chart import ticks


def sized(megabytes: float, **settings: object) -> dict[str, object]:
    extra = {"metrics.model_size_mb": megabytes, "metrics.calibration_seconds": 1.5}
    return run(**settings) | extra | {"metrics.evaluation_seconds": 2.0, "metrics.images_per_second": 99.0}


RUNS = [
    sized(0.3, observer="mse", bits=8, accuracy=91.5),
    sized(0.3, observer="minmax", bits=8, accuracy=91.0),
    sized(0.15, observer="mse", bits=4, accuracy=84.5)
    | {"tags.cpu": "A <b> CPU", "tags.float_weights": "head.weight: why"},
    run("failed", observer="minmax", bits=4, error="RuntimeError: no room"),
    sized(0.1, observer="mse", bits=3, accuracy=51.0),
    run(kind="sweep")
    | {"tags.command": "quant-sweep -m bits=8,4", "tags.failed_jobs": json.dumps([["bits=1", "too few"]])},
]  # fmt: skip


def page_of(*rows: dict[str, object], folder: Path) -> str:
    return (build_report(frame(*rows), folder).folder / "report.html").read_text()


def test_it_has_everything_and_asks_for_nothing(tmp_path: Path) -> None:
    page = page_of(*RUNS, folder=tmp_path / "a")
    assert pictures_of(page) == []
    assert page.count("<svg viewBox") >= 2, "curve and scatter"
    assert re.search(r"<title>mse, 8 bit: 91\.50% \(90\.9\d–92\.0\d\)</title>", page), "the pointer shows the numbers"
    for text in ("91.73", "Pareto front", "RuntimeError: no room", "nobody ran it", "head.weight: why", "1.5 (1.5)"):
        assert text in page
    for text in ("quant-sweep -m bits=8,4", "too few", "A &lt;b&gt; CPU"):
        assert text in page
    assert page_of(*RUNS, folder=tmp_path / "b") == page


def test_the_front_is_what_nothing_beats() -> None:
    points = read_points(frame(*RUNS), "point")
    front = front_of(split(points, []))
    assert [(run.size, run.measured.value) for run in front] == [(0.1, 51.0), (0.15, 84.5), (0.3, 91.5)]


def test_a_gap_breaks_the_line() -> None:
    (section,) = split(read_points(frame(*RUNS), "point"), [])
    minmax, mse = curve(section, section.columns).series
    assert [mark is None for mark in minmax.marks] == [False, True, True]
    assert [mark.y for mark in mse.marks if mark] == [91.5, 84.5, 51.0]


@pytest.mark.parametrize("text", ["</svg><script>x</script>", '" onload="x', "a & b"])
def test_a_chart_of_any_text(text: str) -> None:
    marks = (Mark(0.0, 1.0, text), None, Mark(1.0, 1.0, text, 0.5, 1.5))
    series = (Series(text, 0, marks), Series(text, 8, marks, line=False))
    chart = Chart(
        text, text, text, text, series, ((0.0, text), (1.0, text)), (1.0, None, text), ((0.0, 1.0), (1.0, 1.0))
    )
    page = html(Document("t", (chart, replace(chart, ticks=(), series=()))))
    assert pictures_of(page) == []
    assert "NaN" not in page
    assert 'onload="' not in page


@pytest.mark.parametrize(("low", "high"), [(0, 1), (50.1, 91.8), (-3, 1e6), (1e-9, 2e-9), (5, 5)])
def test_ticks_are_few_and_inside(low: float, high: float) -> None:
    found = ticks(low, high)
    assert 1 <= len(found) <= 7
    assert all(low - 1e-6 * abs(low) <= tick <= high + 1e-6 * abs(high) for tick in found)


def test_it_leads_to_pages_on_the_same_model(tmp_path: Path) -> None:
    about = {"model": "resnet20", "data": "digits"}
    build_sensitivity_report(table(), tmp_path / "sensitivity" / "one", about)
    build_sensitivity_report(table(), tmp_path / "sensitivity" / "other", {**about, "model": "resnet32"})
    (tmp_path / "explain").mkdir()
    (tmp_path / "explain" / "a b.html").write_text(html(Document("conv1, step by step", (), about)))
    (tmp_path / "explain" / "old.html").write_text("<title>x</title>")
    report = build_report(frame(*RUNS), tmp_path / "report" / "x", tmp_path)
    (links,) = (block for block in report.page.blocks if isinstance(block, Links))
    assert [path for _, path in links.targets] == ["../../explain/a b.html", "../../sensitivity/one/sensitivity.html"]
    assert 'href="../../explain/a%20b.html">conv1, step by step</a>' in (report.folder / "report.html").read_text()


def test_jobs_of_one_error_are_told_together() -> None:
    jobs = [(f"bits={bits}", "too few") for bits in range(5)] + [("bits=x", "no number")]
    assert by_error(jobs) == [("bits=0; bits=1; bits=2 and 2 more", "too few"), ("bits=x", "no number")]


def test_the_short_form_fits_a_terminal(tmp_path: Path) -> None:
    rows = [
        run(observer=f"observer_of_a_long_name_{n}", bits=bits, accuracy=90 + n / 10)
        for n in range(5)
        for bits in (8, 4)
    ]
    for runs in (rows, RUNS):
        report = build_report(frame(*runs), tmp_path)
        tables = [line for line in markdown(report.brief).splitlines() if line.startswith("|")]
        assert max(map(len, tables)) <= 80
    assert report.metrics == {"points": 4, "best_accuracy": 91.5, "fewest_bits": 8}
