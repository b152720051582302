"""What a run is, as one hash: the same key means the same numbers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path

import torch

# What cannot change a number: how it is recorded, shown, asked for, or how the float weights once came to be.
_RIM = ("tracking", "report", "cli", "train")


def content_key(contents: Mapping[str, object]) -> str:
    """Hash of everything that decides a result.

    Args:
        contents: JSON-able; digests stand for weights and images.

    Returns:
        40 hex digits.
    """
    text = json.dumps({**contents, "code": code_version()}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]


@functools.cache
def code_version() -> str:
    """Hash of the sources that decide a number, and of torch's version."""
    package = Path(__file__).parent
    digest = hashlib.sha256(torch.__version__.encode())
    for path in sorted(package.rglob("*.py")):
        relative = path.relative_to(package)
        if relative.parts[0] not in _RIM:
            digest.update(f"{relative}\0".encode() + path.read_bytes())
    return digest.hexdigest()[:16]
