import pytest
from runs_table import run
from test_sections import sections

from quant_sweep.report.figures import png
from quant_sweep.report.plots import heat_map, metric_figure


@pytest.mark.parametrize(("observers", "widths"), [(1, [8]), (9, [16, 8, 6, 5, 4, 3, 2])])
def test_pictures_of_any_size(observers: int, widths: list[int]) -> None:
    names = [f"observer{index}" for index in range(observers)]
    (section,) = sections(*(run(observer=name, bits=bits, accuracy=50.0 + bits) for name in names for bits in widths))
    for figure in (metric_figure(section, names), heat_map(section)):
        assert png(figure) == png(figure)
        assert png(figure).startswith(b"\x89PNG")


def test_the_numbers_are_in_the_heat_map() -> None:
    (section,) = sections(run(bits=8, accuracy=91.5), run("failed", bits=4), run(bits=3, accuracy=10.0))
    texts = [text.get_text() for text in heat_map(section).axes[0].texts]
    assert texts == ["91.50", "−0.23", "failed", "10.00", "−81.73"]


def test_a_failed_cell_is_a_gap_and_never_zero() -> None:
    (section,) = sections(run(bits=8, accuracy=91.5), run("failed", bits=4), run(bits=3, accuracy=50.0))
    line = next(line for line in metric_figure(section, ["mse"]).axes[0].lines if line.get_label() == "mse")
    heights = [float(y) for y in line.get_ydata()]
    assert heights[0] == 91.5
    assert heights[1] != heights[1]
    assert heights[2] == 50.0


def test_an_observer_keeps_its_colour_in_every_section() -> None:
    first, second = sections(
        run(fusion="bn", observer="hist", accuracy=90.0),
        run(fusion="bn", observer="mse", accuracy=90.0),
        run(fusion="none", observer="mse", accuracy=90.0),
    )
    colours = [
        next(
            line.get_color()
            for line in metric_figure(section, ["hist", "mse"]).axes[0].lines
            if line.get_label() == "mse"
        )
        for section in (first, second)
    ]
    assert colours[0] == colours[1]
