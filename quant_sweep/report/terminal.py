"""A document on a terminal: tables and boxes as wide as it is; pictures are left to files and the HTML page."""

from __future__ import annotations

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.padding import Padding
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from quant_sweep.errors import printable
from quant_sweep.report.document import (
    Block,
    Chain,
    Chart,
    Document,
    Heading,
    Items,
    Links,
    Paragraph,
    Picture,
    Table,
    spans,
)
from quant_sweep.report.markdown import markdown

_STYLES = {"plain": None, "code": "cyan", "strong": "bold", "emphasis": "italic"}


def print_document(document: Document, console: Console) -> None:
    """Print the whole document, set for a terminal; as Markdown, unwrapped, to a file or a pipe."""
    if not console.is_terminal:
        console.out(markdown(document, pictures=False), highlight=False)
        return
    console.print(Rule(f"[bold]{escape(printable(document.title))}"))
    for block in document.blocks:
        if not isinstance(block, Picture | Chart):
            console.print(_rendered(block))


def _rendered(block: Block) -> RenderableType:
    match block:
        case Heading(level=2):
            return Padding(Rule(f"[bold]{escape(printable(block.text))}", align="left"), (1, 0, 0, 0))
        case Heading():
            return Text(f"\n{printable(block.text)}", style="bold")
        case Paragraph():
            return Group(_text(block.text), "")
        case Items():
            return Group(*(Text.assemble("• ", _text(text)) for text in block.texts), "")
        case Table():
            return _table(block)
        case Chain():
            shown = ([escape(printable(line)) for line in box] for box in block.boxes)
            boxes = [Panel("\n".join(lines), title=title) for title, *lines in shown]
            return Columns([piece for box in boxes for piece in (box, "\n\n→")][:-1])
        case Links():
            return Group(*(Text(f"• {printable(text)}: {printable(path)}") for text, path in block.targets), "")
        case Picture() | Chart():
            raise TypeError("a terminal shows no pictures")


def _table(table: Table) -> RichTable:
    shown = RichTable(header_style="bold", show_lines=False, row_styles=["", "on grey11"])
    for index, header in enumerate(table.headers):
        left = index == 0 or header in table.words
        shown.add_column(_text(header, code_only=True), justify="left" if left else "right", overflow="fold")
    for y, cells in enumerate(table.rows):
        row = [_text(cell, code_only=True) for cell in cells]
        for x, text in enumerate(row):
            if (y, x) in table.strong:
                text.stylize("bold")
        shown.add_row(*row)
    return shown


def _text(text: str, code_only: bool = False) -> Text:
    """With the styles of a text as those of the terminal."""
    return Text.assemble(*((part, _STYLES[style] or "") for part, style in spans(text, code_only)))
