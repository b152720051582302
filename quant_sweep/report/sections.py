"""Points -> sections: one table bits x observer for each combination of everything else that differs.

A param that is the same in all points says nothing about a difference; it is shown once, above the tables. A param
that differs (fusion, engine, scheme, model, ...) makes sections, except the two axes of the table itself: the bit
widths, and the observer and the recovery with their parameters.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath

from quant_sweep.report.measured import Drop, Measured, Metric
from quant_sweep.report.points import Bits, Point, newest

SUBJECT = ("model", "model.checkpoint", "data", "data.root")  # what a float accuracy belongs to
_BITS = ("bits", "weight_bits", "activation_bits")
_COLUMNS = ("observer", "recovery")
_LONGEST_SLUG = 60


@dataclass(frozen=True)
class Cell:
    """One place of a table.

    Attributes:
        status: what to show where nothing was measured.
        measured: what a finished run measured.
        error: why a run failed.
        drop: what was lost against float, on the same samples.
        collapsed: why the number says only that the network is broken; None if it says more.
        logit_sqnr: of the outputs against those in float, dB; None where the run does not say.
    """

    status: str
    measured: Measured | None = None
    error: str = ""
    drop: Drop | None = None
    collapsed: str | None = None
    logit_sqnr: float | None = None

    @classmethod
    def of(cls, points: Sequence[Point]) -> Cell:
        """The cell of all points with the same settings; not run if there are none."""
        if not points:
            return cls("–")
        point = newest(points)
        lost = point.status == "finished" and point.measured is None
        status = "incomplete" if lost else point.status
        ratio = point.metrics.get("logit_sqnr") if point.measured else None
        return cls(status, point.measured, point.error, point.drop, point.collapsed, ratio)


@dataclass(frozen=True)
class Section:
    """A table: `cells[row, column]`, rows from many bits to few. `settings` are the params that differ elsewhere."""

    subject: Mapping[str, str]
    settings: Mapping[str, str]
    engine: str
    metric: Metric
    original: Measured | None
    mixed: bool  # the points saw different float models
    guessing: str | None  # why the float model is none to compare with
    rows: tuple[Bits, ...]
    columns: tuple[str, ...]
    cells: Mapping[tuple[Bits, str], Cell]

    @property
    def title(self) -> str:
        """What distinguishes this section, for a heading."""
        name = f"{self.subject.get('model', 'model')} on {self.subject.get('data', 'data')}"
        return f"{name}: {self.setting}" if self.setting else name

    @property
    def setting(self) -> str:
        """The settings without model and data, `key=value, ...`; of paths the last part."""
        shown = {name: value for name, value in self.settings.items() if value and name not in ("model", "data")}
        return ", ".join(f"{name}={shortened(value)}" for name, value in shown.items())

    @property
    def slug(self) -> str:
        """The title as a part of file names: the same for the same settings in every report."""
        values = [self.subject.get("model", ""), self.subject.get("data", "")]
        values += [shortened(value) for name, value in self.settings.items() if name not in ("model", "data")]
        plain = re.sub(r"[^A-Za-z0-9.]+", "_", "_".join(value for value in values if value)).strip("_")
        digest = hashlib.sha256(repr(sorted(self.settings.items())).encode()).hexdigest()[:6]
        return f"{plain[:_LONGEST_SLUG]}_{digest}" if self.settings else plain[:_LONGEST_SLUG]

    def best(self, row: Bits) -> tuple[str, ...]:
        """The columns with the best value of a row; several when equal. What collapsed is no best of anything."""
        cells = {column: self.cells[row, column] for column in self.columns}
        reached = {
            column: self.metric.goodness(cell.measured.value)
            for column, cell in cells.items()
            if cell.measured and not cell.collapsed
        }
        return tuple(column for column, value in reached.items() if value == max(reached.values()))


def shared_params(points: Sequence[Point]) -> dict[str, str]:
    """The params with one value in all points."""
    names = sorted({name for point in points for name in point.params})
    values = {name: {point.params.get(name, "") for point in points} for name in names}
    return {name: found.pop() for name, found in values.items() if len(found) == 1}


def split(points: Sequence[Point], floats: Sequence[Point]) -> list[Section]:
    """All sections, ordered by their settings."""
    shared = shared_params(points)
    names = sorted({name for point in points for name in point.params if name not in shared and not is_axis(name)})
    names.sort(key=lambda name: (name not in SUBJECT, name))
    groups: dict[tuple[str, ...], list[Point]] = {}
    for point in points:
        groups.setdefault(tuple(point.params.get(name, "") for name in names), []).append(point)
    return [_section(dict(zip(names, values, strict=True)), groups[values], floats) for values in sorted(groups)]


def _section(settings: dict[str, str], points: Sequence[Point], floats: Sequence[Point]) -> Section:
    columns = _column_names(points)
    table: dict[tuple[Bits, str], list[Point]] = {}
    for point in points:
        table.setdefault((Bits.of(point.params), columns[point.key]), []).append(point)
    rows = tuple(sorted({row for row, _ in table}, reverse=True))
    names = tuple(sorted({column for _, column in table}))
    subject = {name: points[0].params[name] for name in SUBJECT if name in points[0].params}
    measured = [point for point in points if point.original]
    guessing = [point for point in measured if point.guesses_in_float]
    return Section(
        subject=subject,
        settings=settings,
        engine=points[0].params.get("engine", ""),
        metric=points[0].metric,
        original=newest(measured).original if measured else _baseline(subject, points[0].metric, floats),
        mixed=len({point.original for point in measured}) > 1,
        guessing=_guessing(newest(guessing).guesses_in_float) if guessing else None,
        rows=rows,
        columns=names,
        cells={(row, name): Cell.of(table.get((row, name), [])) for row in rows for name in names},
    )


def _guessing(why: str | None) -> str:
    return (
        f"{why}: what quantization does to it says nothing. Check `model.checkpoint`, `data.mean`, `data.std` and the "
        "order of the classes."
    )


def _baseline(subject: Mapping[str, str], metric: Metric, floats: Sequence[Point]) -> Measured | None:
    """The float run of the same model, data and metric."""
    same = [
        run
        for run in floats
        if run.metric == metric and all(run.params.get(name, "") == value for name, value in subject.items())
    ]
    return newest(same).measured if same else None


def _column_names(points: Sequence[Point]) -> dict[str, str]:
    """Key of each point -> its observer and recovery, each with its parameters that differ between runs."""
    observers, recoveries = (_named(points, axis) for axis in _COLUMNS)
    return {
        key: observer if recoveries[key] in ("", "none") else f"{observer}, {recoveries[key]}"
        for key, observer in observers.items()
    }


def _named(points: Sequence[Point], axis: str) -> dict[str, str]:
    names: dict[str, str] = {}
    for choice in {point.params.get(axis, "") for point in points}:
        same = [point for point in points if point.params.get(axis, "") == choice]
        shared = shared_params(same)
        for point in same:
            own = {name: value for name, value in sorted(point.params.items()) if name.startswith(f"{axis}.")}
            parts = [f"{name.removeprefix(f'{axis}.')}={value}" for name, value in own.items() if name not in shared]
            names[point.key] = " ".join([choice, *parts])
    return names


def is_axis(name: str) -> bool:
    """Whether a param is a row or a column of the table."""
    return name in _BITS or name.split(".")[0] in _COLUMNS


def shortened(value: str) -> str:
    """Of a path the last part."""
    return PurePath(value).name if "/" in value else value
