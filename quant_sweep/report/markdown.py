"""A document as Markdown, as GitHub shows it: pipe tables, pictures as links to files."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

from tabulate import tabulate

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
from quant_sweep.report.escape import markdown_plain


def markdown(document: Document, pictures: bool = True) -> str:
    """The whole document.

    Args:
        pictures: whether to link those that have a file; the others are left out.
    """
    parts = [f"# {_inline(document.title)}"]
    for block in document.blocks:
        if isinstance(block, Chart) or (isinstance(block, Picture) and not (pictures and block.file is not None)):
            continue
        parts.append(_rendered(block))
    return "\n\n".join(parts) + "\n"


def _rendered(block: Block) -> str:
    match block:
        case Heading():
            return f"{'#' * block.level} {_inline(block.text)}"
        case Paragraph():
            return _inline(block.text)
        case Items():
            return "\n".join(f"- {_inline(text)}" for text in block.texts)
        case Table():
            return _table(block)
        case Chain():
            boxes = ([_inline(line) for line in box] for box in block.boxes)
            return " → ".join(f"**{title}** ({'; '.join(lines)})" for title, *lines in boxes)
        case Links():
            return "\n".join(f"- [{_inline(text)}](<{quote(path)}>)" for text, path in block.targets)
        case Chart():
            raise TypeError("Markdown shows no charts")
        case Picture():
            return f"![{_inline(block.alt)}]({block.file})"


_MARKS = {"plain": "", "code": "`", "strong": "**", "emphasis": "*"}


def _inline(text: str) -> str:
    """A text with its styles, and nothing else that Markdown would act on."""
    return "".join(
        f"{_MARKS[style]}{part if style == 'code' else markdown_plain(part)}{_MARKS[style]}"
        for part, style in spans(text)
    )


def _table(table: Table) -> str:
    rows = [[_cell(cell, (y, x) in table.strong) for x, cell in enumerate(cells)] for y, cells in enumerate(table.rows)]
    headers = [_cell(header, False) for header in table.headers]
    return str(tabulate(rows, headers=headers, tablefmt="pipe", disable_numparse=True))


def _cell(text: str, strong: bool) -> str:
    escaped = "".join(_escaped(text))
    return f"**{escaped}**" if strong and escaped else escaped


def _escaped(text: str) -> Iterator[str]:
    """Without what would end a cell or begin a style; in code only the first means something."""
    for part, style in spans(text, code_only=True):
        safe = part.replace("|", "\\|")
        yield f"`{safe}`" if style == "code" else markdown_plain(safe).replace("*", "\\*")
