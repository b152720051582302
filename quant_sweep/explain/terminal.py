"""The page on a terminal: tables and boxes as wide as it is; pictures are left to the HTML page."""

from __future__ import annotations

import re

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.markup import escape
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text as RichText

from quant_sweep.explain.document import Block, Chain, Document, Picture, Table, Text


def print_document(document: Document, console: Console) -> None:
    """Print the whole page."""
    console.print(Rule(f"[bold]{escape(document.title)}"))
    console.print(_text(document.subtitle))
    for section in document.sections:
        console.print()
        console.print(Rule(f"[bold]{escape(section.title)}", align="left"))
        for block in section.blocks:
            if not isinstance(block, Picture):
                console.print(_rendered(block))


def _rendered(block: Block) -> RenderableType:
    if isinstance(block, Text):
        return Group(_text(block.text), "")
    if isinstance(block, Table):
        return _table(block)
    assert isinstance(block, Chain)
    boxes = [Panel("\n".join(escape(line) for line in lines), title=escape(title)) for title, *lines in block.boxes]
    return Columns([piece for box in boxes for piece in (box, "\n\n→")][:-1])


def _table(table: Table) -> RichTable:
    shown = RichTable(header_style="bold", show_lines=False, row_styles=["", "on grey11"])
    for index, header in enumerate(table.headers):
        shown.add_column(escape(header), justify="left" if index == 0 else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*(_text(cell) for cell in row), style="bold" if row[0] == table.marked else None)
    return shown


def _text(text: str) -> RichText:
    """With what stands between backticks as code."""
    shown = RichText()
    for index, part in enumerate(re.split("`", text)):
        shown.append(part, style="cyan" if index % 2 else None)
    return shown
