"""Pages of sensitivity and explain on the models of a report, found by what they say of themselves."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from html import unescape
from pathlib import Path

from quant_sweep.errors import printable
from quant_sweep.report.html import ABOUT
from quant_sweep.report.sections import SUBJECT

_PLACES = ("sensitivity/*/sensitivity.html", "explain/*.html")
_HEAD = 4096  # characters at the beginning of a page, which say what it is
_ABOUT = re.compile(rf'<meta name="{ABOUT}" content="([^"]*)">')
_TITLE = re.compile("<title>(.*?)</title>", re.DOTALL)


def subject_of(params: Mapping[str, object]) -> dict[str, str]:
    """What a page on a run is about: the model and its data."""
    return {name: str(params[name]) for name in SUBJECT if name in params}


def pages_on(subjects: Iterable[Mapping[str, str]], outputs: Path, folder: Path) -> list[tuple[str, str]]:
    """Pages below `outputs` on one of the subjects, as (title, path relative to `folder`), ordered by path."""
    wanted = [dict(subject) for subject in subjects]
    found = []
    for path in sorted(path for place in _PLACES for path in outputs.glob(place)):
        title, about = _read(path)
        if about in wanted:
            found.append((title or path.name, os.path.relpath(path, folder)))
    return found


def _read(path: Path) -> tuple[str, dict[str, str] | None]:
    """Title and subject of a page; None where it says none."""
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            head = file.read(_HEAD)
        about = _ABOUT.search(head)
        title = _TITLE.search(head)
        found = json.loads(unescape(about[1])) if about else None
    except (OSError, ValueError):
        return "", None
    return printable(unescape(title[1])) if title else "", found
