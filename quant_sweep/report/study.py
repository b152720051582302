"""The table that the original study printed, its ResNet-50 beside the models of an experiment.

A run belongs to it by its params alone, those that `conf/experiment/original.yaml` (the study's code) and
`original_text.yaml` (its text) set: a sweep that reached the same settings in another way is in the table too.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from quant_sweep.report.measured import ACCURACY, Measured
from quant_sweep.report.points import Bits, Point, newest
from quant_sweep.report.sections import SUBJECT, Cell, shortened

STUDY = (
    "The rows and the ResNet-50 are the original study's; the other columns are its recipe on the models of this "
    "experiment, as its *code* (`experiment=original`) or as its *text* (`experiment=original_text`) has it."
)
# Percent of the 10,000 test images of CIFAR-10; bits and way in the study's order.
RESNET50_FLOAT = 93.62
RESNET50 = {
    (8, "built-in"): 93.62,
    (8, "hist"): 93.52,
    (8, "fake-hist"): 93.41,
    (4, "hist"): 64.62,
    (4, "fake-hist"): 88.55,
    (3, "fake-hist"): 50.76,
}
_WAYS = ("built-in", "hist", "fake-hist")
_RECIPES: Mapping[str, Mapping[str, str]] = {
    "code": {
        "fusion": "none",
        "scheme": "symmetric",
        "scheme.activation_symmetric": "True",
        "scheme.activation_narrow_range": "True",
        "scheme.weight_per_channel": "False",
        "scheme.weight_narrow_range": "True",
        "calibration": "sequential",
        "calibration.update_batch_norm": "True",
    },
    "text": {
        "fusion": "none",
        "scheme": "affine",
        "scheme.activation_symmetric": "False",
        "scheme.activation_narrow_range": "False",
        "scheme.weight_per_channel": "False",
        "scheme.weight_narrow_range": "True",
        "calibration": "one_pass",
    },
}
_HIST: Mapping[str, Mapping[str, str]] = {
    "code": {"observer.merge_with_minmax": "True"},  # whatever dst_bins was
    "text": {"observer.dst_bins": "None", "observer.merge_with_minmax": "False"},
}
_FAKE_HIST = {"observer.percentile": "99.99", "observer.momentum": "0.1"}
_SHARED = {"calibration.augment": "True", "weight_observer": "minmax", "overrides": "{}"}
# One column for each combination of these: the model on its data, and what two repetitions of the study may differ in.
_COLUMN = (*SUBJECT, "calibration.images", "calibration.batch_size", "seed")

_Row = tuple[Bits, str]  # widths and way


@dataclass(frozen=True)
class _Column:
    """One model under one recipe: its params named in `_COLUMN`, and its points by row."""

    settings: Mapping[str, str]
    recipe: str
    rows: Mapping[_Row, Sequence[Point]]

    @property
    def name(self) -> str:
        return f"{self.settings['model']} ({self.recipe})"

    @property
    def original(self) -> Measured | None:
        measured = [point for points in self.rows.values() for point in points if point.original]
        return newest(measured).original if measured else None


def study_rows(points: Sequence[Point]) -> list[dict[str, str]]:
    """The study's table, each row from heading to text; empty where no point follows the study's recipe."""
    columns = _columns([point for point in points if point.metric == ACCURACY])
    if not columns:
        return []
    titles = [_title(column, columns) for column in columns]
    printed = {(Bits(2 * bits, bits, bits), way): percent for (bits, way), percent in RESNET50.items()}
    rows = sorted({*printed, *(row for column in columns for row in column.rows)}, key=_order)
    originals = [_text(Cell("–", column.original)) for column in columns]
    table = [_line("fp32 original", RESNET50_FLOAT, titles, originals)]
    for row in rows:
        cells = [_text(Cell.of(column.rows.get(row, []))) for column in columns]
        table.append(_line(_label(*row), printed.get(row), titles, cells))
    return table


def _columns(points: Sequence[Point]) -> list[_Column]:
    """Every model under every recipe that has a point of its own; a built-in run belongs to all of its model's."""
    groups: dict[tuple[tuple[str, ...], str], dict[_Row, list[Point]]] = {}
    for recipe in _RECIPES:
        for point in points:
            if way := _way(point.params, recipe):
                group = tuple(point.params.get(name, "") for name in _COLUMN), recipe
                groups.setdefault(group, {}).setdefault((Bits.of(point.params), way), []).append(point)
    return [
        _Column(dict(zip(_COLUMN, values, strict=True)), recipe, rows)
        for (values, recipe), rows in sorted(groups.items())
        if any(way != "built-in" for _, way in rows)
    ]


def _way(params: Mapping[str, str], recipe: str) -> str | None:
    """Which of the study's three ways a run is under a recipe; None if it is another."""

    def holds(wanted: Mapping[str, str]) -> bool:
        return all(params.get(name) == value for name, value in wanted.items())

    observer = params.get("observer")
    if not holds(_SHARED) or params.get("recovery", "none") != "none":
        return None
    if params.get("engine") == "builtin":
        return "built-in" if observer == "hist" else None
    if not holds(_RECIPES[recipe]):
        return None
    if observer == "hist":
        return "hist" if holds(_HIST[recipe]) else None
    return "fake-hist" if observer == "fake_hist" and holds(_FAKE_HIST) else None


def _title(column: _Column, columns: Sequence[_Column]) -> str:
    """The column's name, and what distinguishes it from others of that name."""
    alike = [other.settings for other in columns if other.name == column.name]
    differing = [name for name in _COLUMN if len({settings[name] for settings in alike}) > 1]
    return " ".join([column.name, *(f"{name}={shortened(column.settings[name])}" for name in differing)])


def _order(row: _Row) -> tuple[int, Bits, int]:
    """Many bits first, and the ways as the study has them."""
    bits, way = row
    return -bits.total, bits, _WAYS.index(way)


def _label(bits: Bits, way: str) -> str:
    return f"{bits}bit {way}" if bits.weight == bits.activation else f"{bits} {way}"


def _line(label: str, study: float | None, titles: Sequence[str], texts: Sequence[str]) -> dict[str, str]:
    printed = "–" if study is None else f"{study:.2f}%"
    return {"Quantization": label, "ResNet-50, the study": printed, **dict(zip(titles, texts, strict=True))}


def _text(cell: Cell) -> str:
    return cell.measured.with_unit if cell.measured else cell.status
