"""Runs -> a folder with the report: HTML, Markdown, CSV, PNG.

Nothing but the runs is read, no clock either: the same runs give the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from quant_sweep.errors import InputError
from quant_sweep.report.brief import brief, numbers
from quant_sweep.report.csv_tables import pivot_csv, points_csv
from quant_sweep.report.document import Document
from quant_sweep.report.figures import png
from quant_sweep.report.html import html
from quant_sweep.report.html_page import html_page
from quant_sweep.report.links import pages_on, subject_of
from quant_sweep.report.markdown import markdown
from quant_sweep.report.measured import ACCURACY, Metric
from quant_sweep.report.origin import read_origin
from quant_sweep.report.page import page
from quant_sweep.report.points import Bits, Point, read_points, usable
from quant_sweep.report.sections import split
from quant_sweep.runtime.atomic_file import replacing


@dataclass(frozen=True)
class Report:
    """What was written, and where.

    Attributes:
        brief: the document on one screen.
        page: what the HTML file shows.
        metric: that most points measure.
        metrics: what a sweep came to, in numbers.
    """

    document: Document
    folder: Path
    files: tuple[Path, ...]
    brief: Document
    page: Document
    metric: Metric = ACCURACY
    metrics: Mapping[str, float] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """Markdown without pictures."""
        return markdown(self.document, pictures=False)


def build_report(runs: pd.DataFrame, folder: Path, outputs: Path | None = None) -> Report:
    """Write report.html, report.md, points.csv, and a pivot and two pictures per section into `folder`.

    Args:
        runs: as `Tracker.runs()` or `read_runs` give them.
        folder: created if need be; files of the same names are replaced, pictures and pivots of an earlier report
            that this one does not have are removed.
        outputs: where pages on the same models may lie, to which report.html leads.

    Raises:
        InputError: `folder` cannot be written.
    """
    found, unusable = usable(read_points(runs, "point"))
    floats, _ = usable(read_points(runs, "float"), widths=False)
    points = sorted(found, key=_order)
    sections = split(points, floats)
    document = page(sections, points, unusable)
    origin = read_origin(runs, points)
    links = pages_on((subject_of(point.params) for point in points), outputs, folder) if outputs else []
    shown = html_page(sections, points, unusable, origin, links)
    contents = {"report.html": html(shown).encode()}
    contents |= document_files(document, "report.md")
    if points:
        contents["points.csv"] = points_csv(points).encode()
    contents |= {f"pivot_{section.slug}.csv": pivot_csv(section).encode() for section in sections}
    files = write_files(folder, contents)
    _remove_outdated(folder, files)
    short = brief(sections, origin.failed)
    return Report(document, folder, files, short, shown, _usual(points), numbers(sections, points))


def _usual(points: Sequence[Point]) -> Metric:
    """The metric of most points; of several, the first."""
    counted = Counter(point.metric for point in points)
    return max(counted, key=lambda metric: (counted[metric], metric.name)) if counted else ACCURACY


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
