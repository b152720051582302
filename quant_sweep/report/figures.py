"""What all pictures share: how they look, and how they become bytes that depend on the data alone.

Figures are built without pyplot, so nothing global changes, and printed by their canvas: `savefig` would draw each
twice, the first time for the layout alone. Colours are those of Okabe and Ito (Color Universal Design,
2008), which stay apart for colour-blind eyes.
"""

from __future__ import annotations

import io

import matplotlib as mpl
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from quant_sweep.errors import printable

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v")  # 7 and 5 share no factor: 35 lines look different
GREY = "#5f5f5f"


def plain_text(text: str) -> str:
    """`text` as a figure shows it: no control characters, no formula between dollar signs."""
    return printable(text).replace("$", r"\$")


def png(figure: Figure) -> bytes:
    """The picture as a PNG file; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure).print_png(buffer)  # type: ignore[no-untyped-call]
    return buffer.getvalue()


def svg(figure: Figure) -> bytes:
    """The picture as an SVG file, letters drawn as shapes; the same figure gives the same bytes."""
    buffer = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "quant_sweep"}):
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None, "Creator": None})  # type: ignore[no-untyped-call]
    return buffer.getvalue()
