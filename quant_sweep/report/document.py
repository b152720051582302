"""A document as plain blocks: what to show, not how. `markdown`, `html` and `terminal` render it.

Paragraphs and items may hold `code` between backticks, **strong** and *emphasised* words; headings and cells only code.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal, final

from matplotlib.figure import Figure

from quant_sweep.errors import printable

Style = Literal["plain", "code", "strong", "emphasis"]

_CODE = r"`(?P<code>[^`]*)`"
_INLINE = re.compile(_CODE + r"|\*\*(?P<strong>[^*]+)\*\*|\*(?P<emphasis>[^*\s][^*]*)\*")
_CODE_ONLY = re.compile(_CODE)


@final
@dataclass(frozen=True)
class Heading:
    """The title of what follows, up to the next heading of this level: 2 for a section, 3 for a part of one."""

    text: str
    level: int = 2


@final
@dataclass(frozen=True)
class Paragraph:
    """Running text."""

    text: str


@final
@dataclass(frozen=True)
class Items:
    """A list of short texts."""

    texts: tuple[str, ...]


@final
@dataclass(frozen=True)
class Table:
    """Rows of texts.

    Attributes:
        rows: each as long as `headers`; the first cell says what the row is.
        strong: (row, column) of each cell to be emphasised.
        words: the headers of columns that hold words and not numbers, beside the first.
    """

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    strong: frozenset[tuple[int, int]] = frozenset()
    words: tuple[str, ...] = ()


@final
@dataclass(frozen=True)
class Chain:
    """Boxes in a row, what comes before what; each a title and a few short lines."""

    boxes: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True)
class Picture:
    """A plot.

    Attributes:
        alt: says in words what it shows.
        draw: makes the plot, when it is needed.
        file: name of the picture beside the Markdown file; None where only the HTML page shows it.
    """

    alt: str
    draw: Callable[[], Figure]
    file: str | None = None


@final
@dataclass(frozen=True)
class Mark:
    """A measured value of a chart.

    Attributes:
        low, high: ends of its interval; None where it has none.
        text: says in words what it is; shown where the pointer rests on it.
    """

    x: float
    y: float
    text: str
    low: float | None = None
    high: float | None = None


@final
@dataclass(frozen=True)
class Series:
    """Marks of one kind.

    Attributes:
        style: chooses colour and shape.
        line: whether neighbours are joined; None among the marks leaves a gap.
    """

    name: str
    style: int
    marks: tuple[Mark | None, ...]
    line: bool = True


@final
@dataclass(frozen=True)
class Chart:
    """A plot that the HTML page draws itself; a table beside it has the numbers, which the other forms show.

    Attributes:
        title: above the plot.
        alt: says in words what it shows.
        ticks: (x, label) of the horizontal axis; none lets it be divided like the vertical one.
        reference: value, ends of its interval or None, label: a line across the plot.
        front: a line of steps through these (x, y).
    """

    title: str
    alt: str
    x_label: str
    y_label: str
    series: tuple[Series, ...]
    ticks: tuple[tuple[float, str], ...] = ()
    reference: tuple[float, tuple[float, float] | None, str] | None = None
    front: tuple[tuple[float, float], ...] = ()


@final
@dataclass(frozen=True)
class Links:
    """Other files, as (text, relative path)."""

    targets: tuple[tuple[str, str], ...]


Block = Heading | Paragraph | Items | Table | Chain | Picture | Chart | Links


@final
@dataclass(frozen=True)
class Document:
    """A title, and the blocks below it.

    Attributes:
        about: what it was made of, `key -> value`, by which a report finds the pages on its models.
    """

    title: str
    blocks: tuple[Block, ...]
    about: Mapping[str, str] = field(default_factory=dict)

    @property
    def pictures(self) -> tuple[Picture, ...]:
        """All pictures, in order."""
        return tuple(block for block in self.blocks if isinstance(block, Picture))


def spans(text: str, code_only: bool = False) -> Iterator[tuple[str, Style]]:
    """The parts of a text, each with its style; control characters are shown, not sent.

    Args:
        code_only: asterisks are characters like others, as in headings and cells.
    """
    text = printable(text)
    end = 0
    for match in (_CODE_ONLY if code_only else _INLINE).finditer(text):
        if match.start() > end:
            yield text[end : match.start()], "plain"
        yield match[match.lastgroup or 0], match.lastgroup  # type: ignore[misc]
        end = match.end()
    if end < len(text):
        yield text[end:], "plain"
