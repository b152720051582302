"""The page of a layer needs nothing but itself, and every way of showing it says the same."""

import io

import pytest
from explained import SYMMETRIC, subject_of
from rich.console import Console
from small_networks import images
from whole_page import pictures_of

from quant_sweep.explain import explain
from quant_sweep.explain.page import page
from quant_sweep.explain.wording import layer_kind, number, whole
from quant_sweep.graph import Fusion
from quant_sweep.graph.operations import Convolution, Linear
from quant_sweep.report.document import Document, Heading, Table
from quant_sweep.report.html import html
from quant_sweep.report.markdown import markdown
from quant_sweep.report.terminal import print_document

Case = tuple[str, str, Fusion, int]
CASES: list[Case] = [
    ("tiny", "conv1", Fusion.conv_bn_relu, 8),
    ("odd", "d", Fusion.none, 16),
    ("upwards", "g", Fusion.bn, 3),
]


def document(kind: str, layer: str, fusion: Fusion, bits: int) -> Document:
    made = subject_of(kind, fusion=fusion, bits=bits)
    return page(explain(made, layer, [images(2)], {"bits": str(bits)}))


@pytest.fixture(scope="module")
def conv1() -> Document:
    return document(*CASES[0])


@pytest.fixture(scope="module")
def shown(conv1: Document) -> str:
    return html(conv1)


def test_page_is_well_formed_and_asks_for_nothing(shown: str) -> None:
    for page_of_a_layer in (shown, *(html(document(*case)) for case in CASES[1:])):
        assert pictures_of(page_of_a_layer)


def test_pictures_have_words(shown: str) -> None:
    assert shown.count("<img alt=") == shown.count("<figcaption>") == 4 + 3 + 3
    assert 'alt=""' not in shown


def test_same_explanation_same_bytes(shown: str) -> None:
    assert html(document(*CASES[0])) == shown


def test_every_number_is_on_every_page(conv1: Document, shown: str) -> None:
    """All cells of all tables stand in the Markdown and on the page."""
    text, plain = markdown(conv1), shown.replace("<code>", "").replace("</code>", "")
    cells = [cell for block in conv1.blocks if isinstance(block, Table) for row in block.rows for cell in row]
    assert len(cells) > 150
    for cell in cells:
        assert cell in text
        assert cell.replace("`", "") in plain
    assert "![" not in text, "pictures are on the page"


@pytest.mark.parametrize("width", [60, 100, 200])
def test_terminal(conv1: Document, width: int) -> None:
    console = Console(file=io.StringIO(), width=width, force_terminal=True, color_system=None)
    print_document(conv1, console)
    assert isinstance(console.file, io.StringIO)
    shown = console.file.getvalue()
    assert max(len(line) for line in shown.splitlines()) <= width
    for block in conv1.blocks:
        if isinstance(block, Heading):
            assert block.text.split()[0] in shown
    if width == 200:
        for heading in ("accumulator", "Numbers computed by hand", "of 32"):
            assert heading in shown


def test_symmetric_scheme_has_a_page() -> None:
    made = subject_of("tiny", bits=4, scheme=SYMMETRIC)
    shown = markdown(page(explain(made, "conv1", [images(2)], {})))
    assert "one grid for the whole tensor" in shown
    assert "u_x" in shown, "codes below 0 are stored from 0 on"


def test_numbers_in_words() -> None:
    assert [number(-0.5), number(float("nan")), number(float("inf")), whole(-1234567)] == [
        "−0.5",
        "–",
        "∞",
        "−1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567",
    ]
    convolution = Convolution((2, 2), ((1, 2), (0, 0)), (1, 1), groups=2, transposed=True, output_padding=(1, 0))
    assert layer_kind(convolution, (4, 3, 3, 3)) == (
        "2-d transposed convolution, weight 4 × 3 × 3 × 3, stride 2, padding 1+2 × 0, groups 2, output padding 1 × 0"
    )
    assert layer_kind(Linear(), (4, 3)) == "linear layer, weight 4 × 3"
