"""The grids of a network's activations on one screen, as MLflow's pages show it."""

from __future__ import annotations

import functools
import math
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined, Template

from quant_sweep.errors import printable
from quant_sweep.report.escape import code

_COLUMNS = {
    "readers": "read by",
    "bits": "bits",
    "scale": "scale",
    "zero_point": "zero-point",
    "lo": "lo",
    "hi": "hi",
    "sqnr_db": "SQNR dB",
    "clipped_fraction": "clipped %",
    "lsb": "LSB to simulate",
    "differing": "differing %",
}
_DIGITS = {"scale": 6, "lo": 4, "hi": 4, "sqnr_db": 3, "clipped_fraction": 3, "differing": 3}
_IN_NOTE = ("readers", "scale", "zero_point", "lo", "hi", "sqnr_db")
_PERCENT = ("clipped_fraction", "differing")


def activations_page(title: str, table: pd.DataFrame) -> str:
    """One HTML file.

    Args:
        table: columns name and those of `_COLUMNS`; missing values stay empty, columns without any are left out.
    """
    shown = {name: header for name, header in _COLUMNS.items() if table[name].notna().any()}
    rows = [[row["name"], *(_text(name, row[name]) for name in shown)] for row in table.to_dict("records")]
    return _template().render(title=title, headers=["tensor", *shown.values()], rows=rows)


def activations_note(table: pd.DataFrame) -> str:
    """The same as Markdown, without what one looks up less often."""
    headers = ["tensor", *(_COLUMNS[name] for name in _IN_NOTE)]
    rows = [[code(row["name"]), *(_text(name, row[name]) for name in _IN_NOTE)] for row in table.to_dict("records")]
    lines = [headers, ["---"] * len(headers), *rows]
    return "\n".join(f"|{'|'.join(cell.replace('|', '/') for cell in line)}|" for line in lines)


def _text(name: str, value: Any) -> str:
    if name == "readers":
        return str(value)
    if pd.isna(value) or math.isinf(value):
        return "" if pd.isna(value) else "∞"
    scaled = 100 * value if name in _PERCENT else value
    return f"{scaled:.{_DIGITS[name]}g}" if name in _DIGITS else f"{scaled:.0f}"


@functools.cache
def _template() -> Template:
    environment = Environment(
        loader=PackageLoader("quant_sweep.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters["shown"] = printable
    return environment.get_template("activations.html")
