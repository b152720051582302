from matplotlib.figure import Figure

from quant_sweep.report.figures import COLOURS, MARKERS, png, svg


def drawn() -> Figure:
    figure = Figure()
    axes = figure.add_subplot()
    axes.plot([1, 2], [3, 4], label="line", clip_on=True)
    axes.legend()
    return figure


def test_same_figure_same_bytes() -> None:
    assert svg(drawn()) == svg(drawn())
    assert png(drawn()) == png(drawn())
    assert svg(drawn()).startswith(b"<?xml")
    assert png(drawn()).startswith(b"\x89PNG")


def test_many_lines_look_different() -> None:
    looks = {(COLOURS[i % len(COLOURS)], MARKERS[i % len(MARKERS)]) for i in range(len(COLOURS) * len(MARKERS))}
    assert len(looks) == len(COLOURS) * len(MARKERS)
