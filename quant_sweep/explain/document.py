"""A page as plain blocks: what to show, not how. Text may hold `code` between backticks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import final

from matplotlib.figure import Figure


@final
@dataclass(frozen=True)
class Text:
    """A paragraph."""

    text: str


@final
@dataclass(frozen=True)
class Table:
    """Rows of texts; the first column says what a row is, the row called `marked` stands out."""

    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    marked: str | None = None


@final
@dataclass(frozen=True)
class Chain:
    """Boxes in a row, what comes before what; each a title and a few short lines."""

    boxes: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True)
class Picture:
    """A plot, drawn when somebody wants it; `alt` says in words what it shows."""

    alt: str
    draw: Callable[[], Figure]


Block = Text | Table | Chain | Picture


@final
@dataclass(frozen=True)
class Section:
    """A heading and what stands below it."""

    title: str
    blocks: tuple[Block, ...]


@final
@dataclass(frozen=True)
class Document:
    """The whole page."""

    title: str
    subtitle: str
    sections: tuple[Section, ...]
