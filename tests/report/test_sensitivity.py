"""The ranking as a page and a chart, from numbers made by hand."""

from pathlib import Path

import pandas as pd
import pytest
from ranking import table

from quant_sweep.errors import InputError
from quant_sweep.report import build_sensitivity_report
from quant_sweep.report.figures import png
from quant_sweep.report.markdown import markdown
from quant_sweep.report.sensitivity import sensitivity_figure, sensitivity_page


def test_the_page_says_on_how_many_images_and_ranks() -> None:
    page = markdown(sensitivity_page(table()))
    assert "1,000 of 10,000 test images, balanced over the classes; one image is 0.1 points" in page
    assert "Float accuracy 93.10" in page
    assert "accuracy drop 6.50, logit KL 0.45, logit SQNR 7.1 dB" in page
    layers, tensors = page.split("## Layers")[1].split("## Single tensors")
    assert layers.index("block0.conv") < layers.index("block1.conv")
    order = ["| x0 ", "| x1 ", "| block0.conv.weight ", "| block1.conv.weight ", "| pool.output "]
    assert sorted(order, key=tensors.index) == order
    assert "whole network" not in page
    assert "| inf " in tensors, "no noise at all is no number of dB, nor 0"
    assert "all 10,000 test images" in markdown(sensitivity_page(table(images=10000)))


def test_the_chart_shows_the_numbers() -> None:
    divergence, drop = sensitivity_figure(table()).axes
    assert [label.get_text() for label in divergence.get_yticklabels()] == ["block0.conv", "block1.conv", "pool.output"]
    bars = {container.get_label(): container for container in divergence.containers}
    assert [bar.get_width() for bar in bars["weight alone"]] == pytest.approx([0.06, 0.03])
    assert [bar.get_width() for bar in bars["input alone"]] == pytest.approx([0.14, 0.07, 0.0])
    colours = {bar.get_facecolor() for container in bars.values() for bar in container}
    assert len(colours) == 2
    both = next(line for line in drop.lines if line.get_label() == "both")
    assert [float(x) for x in both.get_xdata()] == [3.0, 2.0]
    first, last = divergence.get_ylim()
    assert first > last, "the worst is at the top"


@pytest.mark.parametrize("layers", [0, 1, 54, 200])
def test_a_chart_of_any_size(layers: int) -> None:
    figure = sensitivity_figure(table(layers))
    shown = len(figure.axes[0].get_yticklabels())
    assert shown == min(layers + 1, 60)
    assert ("the worst 60 of 201" in figure.get_suptitle()) == (layers == 200)
    if layers < 100:
        assert png(figure).startswith(b"\x89PNG")


@pytest.mark.parametrize("layers", [1, 20])
def test_nothing_is_cut_off(layers: int) -> None:
    figure = sensitivity_figure(table(layers))
    png(figure)
    width, height = figure.get_size_inches() * figure.dpi
    texts = [*figure.axes[0].get_yticklabels(), figure._suptitle, *figure.legends]
    for text in texts:
        box = text.get_window_extent()
        assert 0 <= box.x0 < box.x1 <= width
        assert 0 <= box.y0 < box.y1 <= height


def test_files(tmp_path: Path) -> None:
    report = build_sensitivity_report(table(), tmp_path / "ranking")
    assert {file.name for file in report.files} == {f"sensitivity.{ending}" for ending in ("html", "md", "csv", "png")}
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "ranking" / "sensitivity.csv"), table().rows)
    assert (tmp_path / "ranking" / "sensitivity.md").read_text().startswith(report.text)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="outputs_dir="):
        build_sensitivity_report(table(), tmp_path / "file" / "ranking")
