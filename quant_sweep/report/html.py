"""A document as one HTML file that needs nothing else: style and pictures are inside, no script, no request."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator
from itertools import groupby
from urllib.parse import quote

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from quant_sweep.errors import printable
from quant_sweep.report.document import Block, Chart, Document, Heading, Picture, Table, spans
from quant_sweep.report.figures import svg
from quant_sweep.report.svg_chart import legend_mark, svg_chart

ABOUT = "quant-sweep-about"  # name of the meta element that says what a page was made of
_TAGS = {"code": "code", "strong": "strong", "emphasis": "em"}


def html(document: Document) -> str:
    """The whole document."""
    environment = Environment(
        loader=PackageLoader("quant_sweep.report", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {
        "inline": _inline,
        "shown": printable,
        "cell": lambda text: _inline(text, code_only=True),
        "kind": lambda block: type(block).__name__,
        "classes": _classes,
        "data_uri": _data_uri,
        "svg": svg_chart,
        "mark": legend_mark,
        "quoted": quote,
        "plain": lambda text: "".join(part for part, _ in spans(text, code_only=True)),
    }
    return environment.get_template("document.html").render(
        title=document.title,
        about=json.dumps(dict(document.about), sort_keys=True) if document.about else "",
        about_name=ABOUT,
        sections=[_grouped(blocks) for blocks in _sections(document.blocks)],
    )


def _sections(blocks: Iterable[Block]) -> Iterator[list[Block]]:
    """The blocks below the title, and those of each section."""
    section: list[Block] = []
    for block in blocks:
        if isinstance(block, Heading) and block.level == 2:
            yield section
            section = []
        section.append(block)
    yield section


def _grouped(blocks: Iterable[Block]) -> list[tuple[bool, list[Block]]]:
    """Neighbouring pictures and charts together, to stand side by side; whether a group is of them, and its blocks."""
    return [
        (pictures, list(group)) for pictures, group in groupby(blocks, lambda block: isinstance(block, Picture | Chart))
    ]


def _inline(text: str, code_only: bool = False) -> Markup:
    """Escaped, with the styles of a text as tags."""
    parts = ((escape(part), _TAGS.get(style)) for part, style in spans(text, code_only))
    return Markup("").join(Markup(f"<{tag}>{part}</{tag}>") if tag else part for part, tag in parts)


def _classes(table: Table, y: int, x: int) -> Markup:
    """The class attribute of a cell."""
    names = ["words"] * (table.headers[x] in table.words) + ["strong"] * ((y, x) in table.strong)
    return Markup(f' class="{" ".join(names)}"' if names else "")


def _data_uri(picture: Picture) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(picture.draw())).decode()
