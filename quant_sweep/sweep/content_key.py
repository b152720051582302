"""What a run is, as one hash: the same key means the same numbers.

Sources count by folder: one that decides numbers is in the key with all its files, one that only shows them is not.
Every folder of the package is named here, and every module that lies in none.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import torch

_PACKAGE = Path(__file__).parents[1]
# What decides a summary, and with it all that comes after: an observer more, or an engine, leaves it as it is.
_DECIDE_SUMMARIES = frozenset(
    {"arithmetic", "calibration", "data", "errors.py", "graph", "histograms", "models", "runtime"}
)
_DECIDE_RESULTS = _DECIDE_SUMMARIES | {"engines", "evaluation", "observers", "quantization", "recovery", "sweep"}
# What changes no number: how it is recorded, shown, asked for, or how the float weights once came to be.
_SHOW = frozenset({"__init__.py", "cli", "explain", "report", "tracking", "train"})


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
def code_version(package: Path = _PACKAGE) -> str:
    """Hash of the sources that decide a result, and of torch's version.

    Raises:
        RuntimeError: a folder of `package` holds sources and is not named in this module.
    """
    return _hash_of_sources(package, _DECIDE_RESULTS)


@functools.cache
def collector_version(package: Path = _PACKAGE) -> str:
    """Hash of the sources that decide a summary, and of torch's version; as `code_version`."""
    return _hash_of_sources(package, _DECIDE_SUMMARIES)


def _hash_of_sources(package: Path, folders: Collection[str]) -> str:
    digest = hashlib.sha256(torch.__version__.encode())
    for source in sorted(_sources(package)):
        if source.parts[0] in folders:
            digest.update(f"{source.as_posix()}\0".encode() + (package / source).read_bytes())
    return digest.hexdigest()[:16]


def _sources(package: Path) -> Iterator[Path]:
    """The paths of all modules below `package`, relative to it; hidden folders, which editors make, are none of it."""
    for path in package.rglob("*.py"):
        source = path.relative_to(package)
        if any(part.startswith(".") for part in source.parts):
            continue
        if source.parts[0] not in _DECIDE_RESULTS | _SHOW:
            raise RuntimeError(
                f"{source}: nothing says whether {source.parts[0]} decides numbers or shows them; "
                f"name it in {Path(__file__).name}"
            )
        yield source
