"""Markdown, terminal and HTML say the same, whatever the texts hold."""

import io

import pytest
from matplotlib.figure import Figure
from ranking import table as ranking
from rich.console import Console
from runs_table import frame, run
from whole_page import pictures_of

from quant_sweep.report.document import Block, Chain, Document, Heading, Items, Paragraph, Picture, Table, spans
from quant_sweep.report.html import html
from quant_sweep.report.markdown import markdown
from quant_sweep.report.page import page
from quant_sweep.report.points import read_points
from quant_sweep.report.sections import split
from quant_sweep.report.sensitivity import sensitivity_page
from quant_sweep.report.terminal import print_document

NASTY = ("<b>", "`a<b|c*d` & <script>alert(1)</script>", "|", "*", "**", "`", "[x](y)", "{{ 1 }}", "[bold]x[/bold]")


def drawn() -> Figure:
    figure = Figure()
    figure.add_subplot().plot([1, 2])
    return figure


DOCUMENT = Document(
    "title",
    (
        Paragraph("**strong**, *emphasis* and `code`: 2*3*4 is 24"),
        Heading("section"),
        Items(("one", "`two`")),
        Table(("", "a", "`b`"), (("x", "1", "words"), ("y", "2", "")), frozenset({(1, 1), (1, 2)}), ("`b`",)),
        Heading("part", 3),
        Chain((("from", "here"), ("to", "there", "soon"))),
        Picture("with a file", drawn, "file.png"),
        Picture("without", drawn),
    ),
)


def terminal(document: Document, width: int = 100, is_terminal: bool = True) -> str:
    file = io.StringIO()
    print_document(document, Console(file=file, width=width, color_system=None, force_terminal=is_terminal))
    return file.getvalue()


def test_markdown() -> None:
    expected = """# title

**strong**, *emphasis* and `code`: 2*3*4 is 24

## section

- one
- `two`

|    | a     | `b`   |
|:---|:------|:------|
| x  | 1     | words |
| y  | **2** |       |

### part

**from** (here) → **to** (there; soon)

![with a file](file.png)
"""
    assert markdown(DOCUMENT) == expected
    assert markdown(DOCUMENT, pictures=False) == expected.replace("\n![with a file](file.png)\n", "")
    assert terminal(DOCUMENT, is_terminal=False) == markdown(DOCUMENT, pictures=False) + "\n"


def test_spans() -> None:
    assert list(spans("a `b*c*` **d** *e*")) == [
        ("a ", "plain"), ("b*c*", "code"), (" ", "plain"), ("d", "strong"), (" ", "plain"), ("e", "emphasis"),
    ]  # fmt: skip
    assert list(spans("**kwargs, `x`", code_only=True)) == [("**kwargs, ", "plain"), ("x", "code")]
    assert list(spans("")) == []


def test_html() -> None:
    page = html(DOCUMENT)
    assert len(pictures_of(page)) == 2
    assert "<strong>strong</strong>, <em>emphasis</em> and <code>code</code>" in page
    assert '<td class="strong">2</td><td class="words strong"></td>' in page
    assert page.count("<section>") == 1
    assert page.count('<div class="pictures">') == 1, "neighbours stand side by side"
    assert html(DOCUMENT) == page


def test_terminal() -> None:
    for width in (60, 200):
        shown = terminal(DOCUMENT, width)
        assert max(len(line) for line in shown.splitlines()) <= width
        for text in ("title", "strong", "section", "two", "words", "part", "soon"):
            assert text in shown
        assert "`" not in shown


@pytest.mark.parametrize("text", NASTY)
def test_what_is_typed_is_text(text: str) -> None:
    blocks: tuple[Block, ...] = (
        Heading(text),
        Paragraph(text),
        Items((text,)),
        Table((text, "x"), ((text, text),), frozenset({(0, 1)})),
        Chain(((text, text),)),
    )
    document = Document(text, blocks)
    page = html(document)
    assert pictures_of(page) == []
    assert "<script>" not in page
    assert "<b></b>" not in page
    plain = text.replace("`", "") if text.count("`") == 2 else text
    assert plain.replace("**", "") in terminal(document, 200)
    rows = [line for line in markdown(document).splitlines() if line.startswith(("| ", "|:"))]
    assert {line.replace("\\|", "").count("|") for line in rows} == {3}, "no cell ends early"


def test_reports_are_pages_too() -> None:
    runs = frame(*(run(observer=name, bits=bits, accuracy=90.0) for name in ("hist", "mse") for bits in (8, 4)))
    points = read_points(runs, "point")
    for document, pictures in ((page(split(points, []), points), 2), (sensitivity_page(ranking()), 1)):
        shown, text = html(document), markdown(document)
        assert len(pictures_of(shown)) == pictures
        for block in document.blocks:
            for cell in (cell for row in block.rows for cell in row) if isinstance(block, Table) else ():
                assert cell in shown
                assert cell in text
