"""The page as one HTML file that needs nothing else: style and pictures are inside, no script, no request."""

from __future__ import annotations

import base64
import re

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from quant_sweep.explain.document import Document, Picture
from quant_sweep.report.figures import svg


def page(document: Document) -> str:
    """The whole page."""
    environment = Environment(
        loader=PackageLoader("quant_sweep.explain", "."), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    )
    environment.filters |= {"with_code": _with_code, "kind": lambda block: type(block).__name__, "data_uri": _data_uri}
    return environment.get_template("page.html").render(document=document)


def _with_code(text: str) -> Markup:
    """Escaped, with what stands between backticks as code."""
    return Markup(re.sub(r"`([^`]*)`", r"<code>\1</code>", str(escape(text))))


def _data_uri(picture: Picture) -> str:
    return "data:image/svg+xml;base64," + base64.b64encode(svg(picture.draw())).decode()
