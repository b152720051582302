"""The short answers: how few bits this model takes, and the table "Quantization, Accuracy" of the first study.

"Within 1 point of float" is said of a run only where the paired difference to float, over the same samples, is shown to
be within it with 95 % confidence. A difference that merely came out small on few samples is called what it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from quant_sweep.report.points import Bits
from quant_sweep.report.sections import SUBJECT, Cell, Section


def subjects(sections: Sequence[Section]) -> list[list[Section]]:
    """The sections of each model on its data, apart for each metric."""
    groups: dict[tuple[str, ...], list[Section]] = {}
    for section in sections:
        subject = (*(section.subject.get(name, "") for name in SUBJECT), section.metric.name)
        groups.setdefault(subject, []).append(section)
    return list(groups.values())


def title_of(sections: Sequence[Section]) -> str:
    """Model and data, and the metric where it is another than accuracy."""
    first = sections[0]
    name = f"{first.subject.get('model', 'model')} on {first.subject.get('data', 'data')}"
    return name if first.metric.name == "accuracy" else f"{name}, {first.metric.label}"


@dataclass(frozen=True)
class _Place:
    """A cell with a result, and where it stands."""

    row: Bits
    where: str
    cell: Cell

    @property
    def name(self) -> str:
        return f"**{_label(self.row)}** ({self.where})"

    @property
    def order(self) -> tuple[Bits, float]:
        """Fewest bits first, and of these the best."""
        assert self.cell.measured
        return self.row, -self.cell.measured.metric.goodness(self.cell.measured.value)


def fewest_bits(sections: Sequence[Section]) -> str:
    """A sentence or two about one model on its data."""
    name, metric = title_of(sections), sections[0].metric
    originals = [section.original for section in sections if section.original]
    guessing = next((section.guessing for section in sections if section.guessing), None)
    if guessing:
        return f"{name}: **no answer**. {guessing}"
    if not originals and metric.name == "logit_sqnr":
        return f"{name}: float has no noise to be near to; the tables show how much more signal than noise is left."
    if not originals:
        return f"{name}: no float {metric.label} is known yet."
    most, words = metric.near(originals[0].value)
    places = list(_places(sections))
    sound = [place for place in places if not place.cell.collapsed]
    shown = [place for place in sound if place.cell.drop and place.cell.drop.is_within(most)]
    if places and not sound:
        return f"{name}: **it collapses** at every width that ran; {places[0].cell.collapsed}."
    hoped = [p for p in sound if p not in shown and p.cell.drop and p.cell.drop.value <= most]
    best = min(shown, key=lambda place: place.order) if shown else None
    if best is None:
        text = f"{name}: nothing that ran is shown to stay within {words} of float."
        text = text if hoped else f"{name}: nothing that ran stays within {words} of float."
    else:
        unit = f" {metric.unit}" if metric.unit else ""
        text = f"{name}: the fewest bits within {words} of float are {best.name}: {best.cell.measured}{unit}."
    fewer = [place for place in hoped if best is None or place.row < best.row]
    return f"{text} {_not_shown(min(fewer, key=lambda place: place.order), words)}" if fewer else text


def _not_shown(place: _Place, words: str) -> str:
    drop = place.cell.drop
    assert drop
    if drop.interval is None:
        why = "the run does not say how its difference to float varies over the samples"
    else:
        assert place.cell.measured
        high, samples = drop.metric.shown(drop.interval[1]), place.cell.measured.samples
        why = f"its loss of {drop.metric.shown(drop.value)} may be {high} on {samples:,} samples"
    return f"That {place.name} stays within {words} is not shown: {why}."


def _places(sections: Sequence[Section]) -> Iterator[_Place]:
    for section in sections:
        for (row, column), cell in section.cells.items():
            if cell.measured:
                yield _Place(row, f"{column}, {section.setting}" if len(sections) > 1 else column, cell)


def short_result(sections: Sequence[Section]) -> list[dict[str, str]]:
    """Rows of the short table of one model on its data: the best that each way reached, and with which settings."""
    header = sections[0].metric.label
    header = header[:1].upper() + header[1:]
    originals = [section.original for section in sections if section.original]
    float_cell = Cell("finished", originals[0]) if originals else Cell("–")
    table = [_row("fp32 original", float_cell, "", header)]
    found: dict[tuple[int, str], list[tuple[Cell, str]]] = {}
    for section in sections:
        for (row, column), cell in section.cells.items():
            if cell.status != "–":
                found.setdefault((-row.total, _way(section, row, column)), []).append((cell, section.setting))
    best = {way: max(cells, key=_reached) for way, cells in found.items()}
    for (_, way), entry in sorted(best.items(), key=lambda item: (item[0][0], -_reached(item[1]), item[0][1])):
        table.append(_row(way, *entry, header))
    if len(sections) == 1:
        return [{name: text for name, text in line.items() if name != "Settings"} for line in table]
    return table


def _reached(entry: tuple[Cell, str]) -> float:
    """For ordering: what has no result comes last."""
    measured = entry[0].measured
    return measured.metric.goodness(measured.value) if measured else float("-inf")


def _way(section: Section, row: Bits, column: str) -> str:
    observer = "built-in" if section.engine == "builtin" else column.replace("_", "-")
    return f"{_label(row, '')} {observer}"


def _label(row: Bits, gap: str = " ") -> str:
    return f"{row}{gap}bit" if row.weight == row.activation else str(row)


def _row(way: str, cell: Cell, setting: str, header: str) -> dict[str, str]:
    reached = cell.measured.with_unit if cell.measured else cell.status
    reached = f"{reached} (collapsed)" if cell.collapsed else reached
    return {"Quantization": way, header: reached, "Settings": setting}
