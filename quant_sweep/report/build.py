"""Runs -> a folder with the report: Markdown, CSV, PNG.

Nothing but the runs is read, no clock either: the same runs give the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from quant_sweep.errors import InputError
from quant_sweep.report.document import Document
from quant_sweep.report.figures import png
from quant_sweep.report.markdown import markdown
from quant_sweep.report.page import page, pivot_csv, points_csv
from quant_sweep.report.points import Bits, Point, read_points, usable
from quant_sweep.report.sections import split
from quant_sweep.runtime.atomic_file import replacing


@dataclass(frozen=True)
class Report:
    """What was written, and where."""

    document: Document
    folder: Path
    files: tuple[Path, ...]

    @property
    def text(self) -> str:
        """Markdown without pictures."""
        return markdown(self.document, pictures=False)


def build_report(runs: pd.DataFrame, folder: Path) -> Report:
    """Write report.md, points.csv, and a pivot and two pictures per section into `folder`.

    Args:
        runs: as `Tracker.runs()` or `read_runs` give them.
        folder: created if need be; files of the same names are replaced, pictures and pivots of an earlier report
            that this one does not have are removed.

    Raises:
        InputError: `folder` cannot be written.
    """
    found, unusable = usable(read_points(runs, "point"))
    floats, _ = usable(read_points(runs, "float"), widths=False)
    points = sorted(found, key=_order)
    sections = split(points, floats)
    document = page(sections, points, unusable)
    contents = document_files(document, "report.md")
    if points:
        contents["points.csv"] = points_csv(points).encode()
    contents |= {f"pivot_{section.slug}.csv": pivot_csv(section).encode() for section in sections}
    files = write_files(folder, contents)
    _remove_outdated(folder, files)
    return Report(document, folder, files)


def document_files(document: Document, name: str) -> dict[str, bytes]:
    """By file name: the document as Markdown, called `name`, and the pictures that it links."""
    pictures = {picture.file: png(picture.draw()) for picture in document.pictures if picture.file is not None}
    return {name: markdown(document).encode(), **pictures}


def write_files(folder: Path, contents: Mapping[str, bytes]) -> tuple[Path, ...]:
    """Write files whole, by name, into `folder`, which is created if need be; returns their paths.

    Raises:
        InputError: `folder` cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tuple(_write(folder / name, content) for name, content in contents.items())
    except OSError as error:
        reason = f"cannot write the report here ({error.strerror}); choose a folder that you may write to"
        raise InputError(f"outputs_dir={str(folder)!r}: {reason}") from error


def _remove_outdated(folder: Path, files: tuple[Path, ...]) -> None:
    """Take away what an earlier report left of sections that now have other names."""
    for pattern in ("accuracy_*.png", "metric_*.png", "heatmap_*.png", "pivot_*.csv"):
        for path in folder.glob(pattern):
            if path not in files:
                path.unlink()


def _order(point: Point) -> tuple[list[tuple[str, str]], Bits, str]:
    """By settings, then bits; the key only where two keys have the same params."""
    bits = ("bits", "weight_bits", "activation_bits")
    return sorted(item for item in point.params.items() if item[0] not in bits), Bits.of(point.params), point.key


def _write(path: Path, content: bytes) -> Path:
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)
    return path
