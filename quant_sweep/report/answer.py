"""The short answers: how few bits this model takes, and the table "Quantization, Accuracy" of the first study."""

from __future__ import annotations

from collections.abc import Sequence

from quant_sweep.report.points import Bits
from quant_sweep.report.sections import SUBJECT, Cell, Section

NEAR = 1.0  # points below float that still count as the same model


def subjects(sections: Sequence[Section]) -> list[list[Section]]:
    """The sections of each model on its data."""
    groups: dict[tuple[str, ...], list[Section]] = {}
    for section in sections:
        groups.setdefault(tuple(section.subject.get(name, "") for name in SUBJECT), []).append(section)
    return list(groups.values())


def fewest_bits(sections: Sequence[Section]) -> str:
    """One sentence about one model on its data."""
    name = f"{sections[0].subject.get('model', 'model')} on {sections[0].subject.get('data', 'data')}"
    near: list[tuple[Bits, float, str]] = []
    for section in sections:
        for (row, column), cell in section.cells.items():
            if cell.accuracy and section.original and section.original.percent - cell.accuracy.percent <= NEAR:
                where = f"{column}, {section.setting}" if len(sections) > 1 else column
                near.append((row, -cell.accuracy.percent, f"**{_label(row)}** ({where}): {cell.accuracy}"))
    if not any(section.original for section in sections):
        return f"{name}: no float accuracy is known yet."
    if not near:
        return f"{name}: nothing that ran stays within {NEAR:g} point of float."
    return f"{name}: the fewest bits within {NEAR:g} point of float are {min(near)[2]} %."


def short_result(sections: Sequence[Section]) -> list[dict[str, str]]:
    """Rows of the short table of one model on its data: the best that each way reached, and with which settings."""
    originals = [section.original for section in sections if section.original]
    table = [_row("fp32 original", Cell("finished", originals[0], "") if originals else Cell("–", None, ""), "")]
    found: dict[tuple[int, str], list[tuple[Cell, str]]] = {}
    for section in sections:
        for (row, column), cell in section.cells.items():
            if cell.status != "–":
                found.setdefault((-row.total, _way(section, row, column)), []).append((cell, section.setting))
    best = {way: max(cells, key=_reached) for way, cells in found.items()}
    for (_, way), entry in sorted(best.items(), key=lambda item: (item[0][0], -_reached(item[1]), item[0][1])):
        table.append(_row(way, *entry))
    if len(sections) == 1:
        return [{name: text for name, text in line.items() if name != "Settings"} for line in table]
    return table


def _reached(entry: tuple[Cell, str]) -> float:
    """For ordering: what has no accuracy comes last."""
    return entry[0].accuracy.percent if entry[0].accuracy else float("-inf")


def _way(section: Section, row: Bits, column: str) -> str:
    observer = "built-in" if section.engine == "builtin" else column.replace("_", "-")
    return f"{_label(row, '')} {observer}"


def _label(row: Bits, gap: str = " ") -> str:
    return f"{row}{gap}bit" if row.weight == row.activation else str(row)


def _row(way: str, cell: Cell, setting: str) -> dict[str, str]:
    reached = cell.accuracy.percentage if cell.accuracy else cell.status
    return {"Quantization": way, "Accuracy": reached, "Settings": setting}
