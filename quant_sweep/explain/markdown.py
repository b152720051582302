"""The page as Markdown, without pictures."""

from __future__ import annotations

from tabulate import tabulate

from quant_sweep.explain.document import Block, Chain, Document, Picture, Table, Text


def markdown(document: Document) -> str:
    """The whole page; pipe tables, as GitHub shows them."""
    parts = [f"# {document.title}", document.subtitle]
    for section in document.sections:
        parts.append(f"## {section.title}")
        parts += [_rendered(block) for block in section.blocks if not isinstance(block, Picture)]
    return "\n\n".join(parts) + "\n"


def _rendered(block: Block) -> str:
    if isinstance(block, Text):
        return block.text
    if isinstance(block, Table):
        return _table(block)
    assert isinstance(block, Chain)
    return " → ".join(f"**{title}** ({'; '.join(lines)})" for title, *lines in block.boxes)


def _table(table: Table) -> str:
    rows = [[_cell(cell, row[0] == table.marked) for cell in row] for row in table.rows]
    return str(tabulate(rows, headers=list(table.headers), tablefmt="pipe", disable_numparse=True))


def _cell(text: str, marked: bool) -> str:
    safe = text.replace("|", "\\|").replace("*", "\\*")
    return f"**{safe}**" if marked and safe else safe
