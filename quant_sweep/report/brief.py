"""The report on one screen: the answer in a sentence, and a grid bits x observer without intervals."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from quant_sweep.report.answer import fewest_bits, subjects
from quant_sweep.report.document import Block, Document, Heading, Items, Paragraph, Table
from quant_sweep.report.escape import code
from quant_sweep.report.points import Bits, Point
from quant_sweep.report.sections import Cell, Section

_WIDTH = 80  # columns of a terminal
_FRAME, _PADDING = 1, 3  # columns that a table takes, and each of its columns


def brief(sections: Sequence[Section], failed: Sequence[tuple[str, str]] = ()) -> Document:
    """The short report.

    Args:
        failed: jobs of the sweep that ended before they had a run, and the error.
    """
    blocks: list[Block] = []
    for group in subjects(sections):
        blocks.append(Paragraph(fewest_bits(group)))
        for section in group:
            blocks += [*([Heading(section.setting, 3)] if section.setting else []), grid(section)]
    if failed:
        blocks.append(Items(tuple(f"{code(jobs)} failed: {code(error)}" for jobs, error in failed)))
    return Document("Result", tuple(blocks or [Paragraph("No points yet.")]))


def numbers(sections: Sequence[Section], points: Sequence[Point]) -> dict[str, float]:
    """What a sweep came to: its points that finished, the best of the metric, the fewest bits close to float."""
    finished = [point for point in points if point.status == "finished"]
    found: dict[str, float] = {"points": len(finished)}
    measured = [point.measured for point in finished if point.measured]
    if len({value.metric for value in measured}) == 1:
        metric = measured[0].metric
        found[f"best_{metric.name}"] = max((value.value for value in measured), key=metric.goodness)
    near = [bits for section in sections for bits in near_float(section)]
    if near and len(subjects(sections)) == 1:
        found["fewest_bits"] = min(near).total / 2
    return found


def near_float(section: Section) -> list[Bits]:
    """The widths of the cells that are shown to be near float."""
    if section.original is None:
        return []
    most, _ = section.metric.near(section.original.value)
    cells = section.cells.items()
    return [row for (row, _), cell in cells if cell.drop and cell.drop.is_within(most) and not cell.collapsed]


def grid(section: Section) -> Table:
    """A section without intervals, the best of each width strong; turned where it would not fit a terminal."""
    rows = [("float", *[_float(section)] * len(section.columns))]
    rows += [(str(row), *(_short(section.cells[row, column]) for column in section.columns)) for row in section.rows]
    headers, strong = ("bits", *section.columns), frozenset(_best(section))
    if _columns(headers, rows) <= _WIDTH:
        return Table(headers, tuple(rows), strong)
    turned = [
        (column, *(_short(section.cells[row, column]) for row in section.rows), _float(section))
        for column in section.columns
    ]
    widths = ("", *(f"{row} bit" for row in section.rows), "float")
    return Table(widths, tuple(turned), frozenset((x - 1, y) for y, x in strong))


def _best(section: Section) -> Iterator[tuple[int, int]]:
    for y, row in enumerate(section.rows, start=1):
        yield from ((y, x) for x, column in enumerate(section.columns, start=1) if column in section.best(row))


def _columns(headers: Sequence[str], rows: Sequence[Sequence[str]]) -> int:
    widths = [max(map(len, texts)) + 4 for texts in zip(headers, *rows, strict=True)]  # Markdown's ** included
    return _FRAME + sum(width + _PADDING for width in widths)


def _float(section: Section) -> str:
    return section.metric.shown(section.original.value) if section.original else "–"


def _short(cell: Cell) -> str:
    return cell.measured.metric.shown(cell.measured.value) if cell.measured else cell.status
