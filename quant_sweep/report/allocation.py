"""Bits where they matter: what was measured, the choice, and where it lies beside the uniform networks.

The picture has the divergence of the outputs against the size of the weights and against an image's bit operations.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from quant_sweep.report.build import Report, document_files, write_files
from quant_sweep.report.document import Document, Heading, Paragraph, Picture, Table
from quant_sweep.report.escape import csv_safe
from quant_sweep.report.figures import COLOURS, GREY, plain_text
from quant_sweep.report.html import html

_PANELS = {"megabytes": "weights, MB", "bit_operations": "bit operations of an image, 10⁹"}
_FORMATS = {"damage": "{:.3g}", "changed": "{:.2f}", "megabytes": "{:.4g}", "bit_operations": "{:.4g}"}
_LEAST = 1e-6  # what is less is drawn there


@dataclass(frozen=True, eq=False)
class AllocationTable:
    """What was measured, and of what.

    Attributes:
        title: model, scheme, observer, recovery.
        budget: as it was typed.
        images: on how many images that no recovery saw.
        rows: columns name, damage (divergence at temperature 4), changed (percent of classes), megabytes (weights),
            bit_operations (10**9), chosen (true or false); in the order in which they were made.
        widths: columns name, kind, numbers, bits; one row per tensor, of the choice.
        command: what evaluates the choice.
    """

    title: str
    budget: str
    images: int
    rows: pd.DataFrame
    widths: pd.DataFrame
    command: str


def build_allocation_report(table: AllocationTable, folder: Path) -> Report:
    """Write allocation.html, .md, .csv and .png, and widths.csv; raises InputError where `folder` cannot be written."""
    document = allocation_page(table)
    contents = document_files(document, "allocation.md")
    contents["allocation.csv"] = csv_safe(table.rows).to_csv(index=False).encode()
    contents["widths.csv"] = csv_safe(table.widths).to_csv(index=False).encode()
    contents["allocation.html"] = html(document).encode()
    return Report(document, folder, write_files(folder, contents), document, document)


def allocation_page(table: AllocationTable) -> Document:
    """The measured assignments, the choice tensor by tensor, the picture."""
    rows = [
        (str(row["name"]), *(form.format(row[column]) for column, form in _FORMATS.items()))
        for row in _records(table.rows)
    ]
    chosen = [i for i, picked in enumerate(table.rows["chosen"]) if picked]
    headers = ("assignment", "divergence", "classes changed, %", "weights, MB", "bit operations, 10⁹")
    widths = [(str(r["name"]), str(r["kind"]), f"{r['numbers']:,}", str(r["bits"])) for r in _records(table.widths)]
    return Document(
        f"Allocation of bits: {table.title}",
        (
            Paragraph(
                f"Within {table.budget}, measured on {table.images:,} training images that no recovery saw, without "
                "labels, against the float network. Bold is the choice."
            ),
            Table(headers, tuple(rows), frozenset((i, j) for i in chosen for j in range(len(headers)))),
            Paragraph(f"Evaluate it: `{table.command}`"),
            Picture("damage against size and bit operations", lambda: allocation_figure(table), "allocation.png"),
            Heading("The choice"),
            Table(("tensor", "kind", "numbers", "bits"), tuple(widths), words=("kind",)),
        ),
    )


def _records(frame: pd.DataFrame) -> list[dict[str, object]]:
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def allocation_figure(table: AllocationTable) -> Figure:
    """Damage against each cost: the uniform networks as a line, what was tried as crosses, the choice as a disc."""
    figure = Figure(figsize=(10.0, 4.4), dpi=150, layout="constrained")
    uniform = table.rows[table.rows["name"].str.startswith("uniform")]
    tried = table.rows[~table.rows["name"].str.startswith("uniform")]
    for axes, (column, label) in zip(figure.subplots(1, 2, sharey=True), _PANELS.items(), strict=True):
        heights = uniform["damage"].clip(lower=_LEAST)
        axes.plot(uniform[column], heights, "-o", color=COLOURS[0], label="one width everywhere")
        for name, x, y in zip(uniform["name"], uniform[column], heights, strict=True):
            axes.annotate(name.removeprefix("uniform "), (x, y), xytext=(4, 4), textcoords="offset points", color=GREY)
        axes.plot(tried[column], tried["damage"].clip(lower=_LEAST), "x", color=COLOURS[1], label="tried")
        best = table.rows[table.rows["chosen"]]
        axes.plot(best[column], best["damage"].clip(lower=_LEAST), "D", color=COLOURS[1], label="chosen")
        axes.set_yscale("log")
        axes.set_xlabel(label)
        axes.locator_params(axis="x", nbins=5)  # small networks have long numbers
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("divergence of the outputs")
    figure.axes[0].legend(frameon=False)
    figure.suptitle(plain_text(f"{table.title}\n{table.budget}"), fontsize=10)
    return figure
