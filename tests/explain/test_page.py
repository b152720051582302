"""The page needs nothing but itself, and every way of showing it says the same."""

import base64
import io
import re
from html.parser import HTMLParser

import pytest
from explained import SYMMETRIC, odd, subject
from rich.console import Console
from small_networks import images

from quant_sweep.explain import explain
from quant_sweep.explain.document import Document, Section, Table, Text
from quant_sweep.explain.markdown import markdown
from quant_sweep.explain.page import page
from quant_sweep.explain.story import story
from quant_sweep.explain.terminal import print_document
from quant_sweep.graph import Fusion

CASES = [
    (None, "conv1", Fusion.conv_bn_relu, 8),
    (None, "conv2", Fusion.conv_bn_relu, 4),
    (None, "conv2", Fusion.none, 2),
    (None, "conv1", Fusion.bn, 3),
    (None, "linear", Fusion.bn, 8),
    ("odd", "a", Fusion.conv_bn_relu, 8),
    ("odd", "d", Fusion.none, 16),
]


def document(kind: str | None, layer: str, fusion: Fusion, bits: int) -> Document:
    made = subject(odd() if kind else None, fusion, bits)
    return story(explain(made, layer, [images(2)], {"bits": str(bits)}))


@pytest.fixture(scope="module")
def conv1() -> Document:
    return document(*CASES[0])


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.attributes: list[tuple[str, str, str]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.attributes += [(tag, name, value or "") for name, value in attrs]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@pytest.mark.parametrize("case", CASES, ids=str)
def test_page_is_well_formed_and_asks_for_nothing(case: tuple[str | None, str, Fusion, int]) -> None:
    html = page(document(*case))
    tags = Tags()
    tags.feed(html)
    assert tags.open == []
    linking = [value for _, name, value in tags.attributes if name in ("src", "href", "srcset", "data", "action")]
    assert linking
    assert all(value.startswith("data:image/svg+xml;base64,") for value in linking)
    assert not re.search(r"https?:|url\(|@import|<script|<link|<iframe", html)
    for value in linking:
        picture = base64.b64decode(value.partition(",")[2]).decode()
        assert picture.lstrip().startswith("<?xml")
        assert not re.search(r'(?:href|src)="(?!#)', picture), "a picture asks for something"


def test_pictures_have_words(conv1: Document) -> None:
    html = page(conv1)
    assert html.count("<img alt=") == html.count("<figcaption>") == 4 + 3 + 3
    assert 'alt=""' not in html


def test_same_explanation_same_bytes() -> None:
    first, second = (page(document(*CASES[1])) for _ in range(2))
    assert first == second


def test_what_is_typed_is_text() -> None:
    block = Text("`a<b` & <script>alert(1)</script>")
    html = page(Document("<b>", "x", (Section("<i>", (block, Table(("|", "*"), (("<u>", "`q`"),)))),)))
    assert "<script>" not in html
    assert "<code>a&lt;b</code> &amp; &lt;script&gt;" in html
    assert "<u>" not in html


def test_every_number_is_on_every_page(conv1: Document) -> None:
    """All cells of all tables stand in the Markdown and on the page."""
    text, html = markdown(conv1), page(conv1)
    plain = html.replace("<code>", "").replace("</code>", "")
    cells = [cell for s in conv1.sections for b in s.blocks if isinstance(b, Table) for row in b.rows for cell in row]
    assert len(cells) > 150
    for cell in cells:
        assert cell.replace("*", "\\*") in text
        assert cell.replace("`", "") in plain
    assert "![" not in text, "pictures are on the page"


@pytest.mark.parametrize("width", [60, 100, 200])
def test_terminal(conv1: Document, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, no_color=True)
    print_document(conv1, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert max(len(line) for line in shown.splitlines()) <= width
    for section in conv1.sections:
        assert section.title.split()[0] in shown
    if width == 200:
        for heading in (
            "accumulator",
            "Numbers carried through by hand",
            "21 of 32" if "21 of 32" in shown else "of 32",
        ):
            assert heading in shown


def test_symmetric_scheme_has_a_page() -> None:
    made = subject(bits=4, scheme=SYMMETRIC)
    html = page(story(explain(made, "conv1", [images(2)], {})))
    assert "one grid for the whole tensor" in html
