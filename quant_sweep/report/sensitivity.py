"""Which parts of a network suffer most in few bits: two tables and a bar chart.

The tables rank by the divergence of the logits, or by the relative error of outputs that are none. The chart has one
line per layer: what its weight alone and what its input alone do, and both together. An activation that no layer reads
(before a pooling, say) has a line of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from quant_sweep.report.build import Report, document_files, write_files
from quant_sweep.report.document import Document, Heading, Paragraph, Picture, Table
from quant_sweep.report.escape import csv_safe
from quant_sweep.report.figures import COLOURS, plain_text
from quant_sweep.report.measured import ACCURACY, Metric

_COLOURS = {"weight": COLOURS[0], "activation": COLOURS[1]}
_LABELS = {"weight": "weight alone", "activation": "input alone"}
_THICKNESS = 0.36  # of a bar, in lines
_LONGEST_CHART = 60  # lines
_RANKS = {"logit_kl": "logit KL", "relative_error": "relative error"}  # columns that may rank
_WORDS = {"logit_kl": "the divergence of the logits (KL, nats)", "relative_error": "the relative error of the outputs"}


@dataclass(frozen=True, eq=False)
class SensitivityTable:
    """What was measured, and on what.

    Attributes:
        title: model, scheme, observer, bits.
        images: on how many test images.
        test_images: out of how many.
        float_value: what is measured of the float network on those images; None where nothing can be.
        rows: columns name, kind, tensors, <metric>_drop, logit_kl or relative_error, logit_sqnr_db, own_sqnr_db; worst
            first.
        metric: what was measured.
    """

    title: str
    images: int
    test_images: int
    float_value: float | None
    rows: pd.DataFrame
    metric: Metric = ACCURACY

    @property
    def scope(self) -> str:
        """How far the numbers can be trusted."""
        if self.images == self.test_images:
            return f"all {self.images:,} test images"
        return f"{self.images:,} of {self.test_images:,} test images, balanced over the classes"

    @property
    def rank(self) -> str:
        """The column that ranks."""
        return next(column for column in _RANKS if column in self.rows.columns)

    @property
    def drop(self) -> str | None:
        """The column of what the metric lost; None where there is none."""
        column = f"{self.metric.name}_drop"
        return column if column in self.rows.columns else None

    @property
    def panels(self) -> dict[str, str]:
        """Column -> label of its axis."""
        unit = {"%": ", points", "": ""}.get(self.metric.unit, f", {self.metric.unit}")
        drop = {} if self.drop is None else {self.drop: f"{self.metric.label} drop{unit}"}
        return {self.rank: _RANKS[self.rank] + (", nats" if self.rank == "logit_kl" else ""), **drop}

    def of(self, *kinds: str) -> pd.DataFrame:
        """The rows of some kinds, worst first."""
        return self.rows[self.rows["kind"].isin(kinds)].reset_index(drop=True)


def build_sensitivity_report(table: SensitivityTable, folder: Path) -> Report:
    """Write sensitivity.md, .csv and .png: the page, its numbers and its chart.

    Args:
        folder: created if need be; files of the same names are replaced.

    Raises:
        InputError: `folder` cannot be written.
    """
    document = sensitivity_page(table)
    contents = document_files(document, "sensitivity.md")
    contents["sensitivity.csv"] = csv_safe(table.rows).to_csv(index=False).encode()
    return Report(document, folder, write_files(folder, contents))


def sensitivity_page(table: SensitivityTable) -> Document:
    """The ranking: layers, then single tensors, then the chart."""
    return Document(
        f"Sensitivity: {table.title}",
        (
            Paragraph(
                f"Measured on {table.scope}{_step(table)}. One part at a time is quantized, everything else stays in "
                f"float; worst first, by {_WORDS[table.rank]}."
            ),
            Paragraph(_whole(table)),
            Heading("Layers, weight and input quantized"),
            _ranking(table, table.of("layer"), ["name"], ["layer"], own=False),
            Heading("Single tensors"),
            _ranking(table, table.of("weight", "activation"), ["name", "kind"], ["tensor", "kind"], own=True),
            Picture("damage of each layer", lambda: sensitivity_figure(table), "sensitivity.png"),
        ),
    )


def _step(table: SensitivityTable) -> str:
    """How fine the metric can be, where each image is right or wrong."""
    if not table.metric.proportion:
        return ""
    return f"; one image is {100 / table.images:.2g} points of {table.metric.label}"


def _whole(table: SensitivityTable) -> str:
    """What everything quantized at once does."""
    (whole,) = _records(table.of("network"))
    metric = table.metric
    value = "" if table.float_value is None else f"Float {metric.label} {metric.shown(table.float_value)}. "
    drop = "" if table.drop is None else f"{metric.label} drop {metric.shown(whole[table.drop])}, "
    return (
        f"{value}Everything quantized at once: {drop}{_RANKS[table.rank]} {whole[table.rank]:.3g}, "
        f"logit SQNR {whole['logit_sqnr_db']:.1f} dB."
    )


def sensitivity_figure(table: SensitivityTable) -> Figure:
    """Bars of every layer, the most damaging at the top: divergence of the logits, and accuracy drop."""
    lines = _lines(table)
    shown = lines[:_LONGEST_CHART]
    figure = Figure(figsize=(10.0, 1.9 + 0.27 * len(shown)), dpi=150, layout="constrained")
    panels = table.panels
    subplots = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (column, label) in zip(subplots, panels.items(), strict=True):
        _draw_panel(axes, shown, column)
        axes.set_xlabel(plain_text(label))
    axes = figure.axes[0]
    axes.set_yticks(range(len(shown)), [plain_text(name) for name, _ in shown], fontsize=8)
    axes.set_ylim(len(shown) - 0.4, -0.6)
    less = f"; the worst {len(shown)} of {len(lines)}" if len(shown) < len(lines) else ""
    figure.suptitle(f"{plain_text(table.title)}\none layer quantized at a time, {table.scope}{less}", fontsize=10)
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


Row = dict[str, Any]


def _lines(table: SensitivityTable) -> list[tuple[str, dict[str, Row]]]:
    """Name -> the rows that belong on its line, by their kind; worst line first."""
    single = {row["name"]: row for row in _records(table.of("weight", "activation"))}
    lines: list[tuple[str, dict[str, Row]]] = []
    read: set[str] = set()
    for layer in _records(table.of("layer")):
        names = layer["tensors"].split()
        read |= set(names)
        worst_last = sorted((single[name] for name in names), key=lambda row: float(row[table.rank]))
        lines.append((layer["name"], {"layer": layer, **{row["kind"]: row for row in worst_last}}))
    lines += [(name, {row["kind"]: row}) for name, row in single.items() if name not in read]
    return sorted(lines, key=lambda line: -max(row[table.rank] for row in line[1].values()))


def _records(rows: pd.DataFrame) -> list[Row]:
    return [{str(name): value for name, value in row.items()} for row in rows.to_dict("records")]


def _draw_panel(axes: Axes, lines: Sequence[tuple[str, dict[str, Row]]], column: str) -> None:
    for kind, shift in (("weight", -_THICKNESS / 2), ("activation", _THICKNESS / 2)):
        places = [(y + shift, bars[kind][column]) for y, (_, bars) in enumerate(lines) if kind in bars]
        axes.barh(
            [y for y, _ in places],
            [value for _, value in places],
            height=_THICKNESS,
            color=_COLOURS[kind],
            label=_LABELS[kind],
        )
    both = [(y, bars["layer"][column]) for y, (_, bars) in enumerate(lines) if "layer" in bars]
    axes.plot([value for _, value in both], [y for y, _ in both], "D", color="black", markersize=4, label="both")
    axes.axvline(0, color="black", linewidth=0.8)
    axes.grid(axis="x", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _ranking(table: SensitivityTable, rows: pd.DataFrame, names: list[str], headers: list[str], own: bool) -> Table:
    shown: dict[str, Callable[[float], str]] = {} if table.drop is None else {table.drop: table.metric.shown}
    shown |= {table.rank: "{:.3g}".format, "logit_sqnr_db": "{:.1f}".format}
    shown |= {"own_sqnr_db": "{:.1f}".format} if own else {}
    titles = [*([] if table.drop is None else [f"{table.metric.label} drop"]), _RANKS[table.rank], "logit SQNR, dB"]
    titles += ["own SQNR, dB"] if own else []
    lines = [
        (*(row[name] for name in names), *(form(row[column]) for column, form in shown.items()))
        for row in _records(rows)
    ]
    return Table((*headers, *titles), tuple(lines), words=("kind",))
