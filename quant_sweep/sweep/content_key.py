"""What a run is, as one hash: the same key means the same numbers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

_PACKAGE = Path(__file__).parents[1]
# What cannot change a number: how it is recorded, shown, asked for, or how the float weights once came to be.
_SHOWS = ("cli", "explain", "report", "tracking", "train")
# What decides a summary: an observer more, or an engine, leaves it as it is.
_COLLECTS = ("arithmetic", "calibration", "data", "graph", "histograms", "models", "runtime")


def content_key(contents: Mapping[str, object]) -> str:
    """Hash of everything that decides a result.

    Args:
        contents: JSON-able; digests stand for weights and images.

    Returns:
        40 hex digits.
    """
    return _key(contents, code_version())


def summaries_key(contents: Mapping[str, object]) -> str:
    """Hash of everything that decides what one calibration pass collects; as `content_key`."""
    return _key(contents, collector_version())


def _key(contents: Mapping[str, object], code: str) -> str:
    text = json.dumps({**contents, "code": code}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


@functools.cache
def code_version() -> str:
    """Hash of the sources that decide a number, and of torch's version."""
    sources = [path for path in _PACKAGE.rglob("*.py") if path.relative_to(_PACKAGE).parts[0] not in _SHOWS]
    return _hash_of_sources(sources)


@functools.cache
def collector_version() -> str:
    """Hash of the sources that decide a summary, and of torch's version."""
    sources = [path for path in _PACKAGE.rglob("*.py") if path.relative_to(_PACKAGE).parts[0] in _COLLECTS]
    return _hash_of_sources(sources)


def _hash_of_sources(paths: list[Path]) -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(paths):
        digest.update(f"{path.relative_to(_PACKAGE)}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
