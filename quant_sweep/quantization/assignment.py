"""Files that say how many bits each tensor has: a mapping from tensors to bits or `float`, as YAML or JSON.

input: 8
layer1.0.conv1.weight: 3
linear: float
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from quant_sweep.arithmetic.widths import MAX_BITS, MIN_BITS
from quant_sweep.errors import InputError
from quant_sweep.quantization.scheme import FLOAT, Width
from quant_sweep.runtime.atomic_file import replacing

_LARGEST = 2**22  # bytes of a file; a network of 10,000 tensors has less than a tenth
KINDS = "allowed is a mapping from tensors to bits, {input: 8, linear: float}, or a YAML or JSON file of one"
ALLOWED = f"the whole numbers {MIN_BITS} to {MAX_BITS}, and {FLOAT}"


def read_assignment(path: Path) -> dict[str, Width]:
    """What a file says.

    Raises:
        InputError: it cannot be read, or holds something else; the message begins with `overrides`.
    """
    if not _is_file(path):
        raise InputError(f"overrides={path}: there is no such file; {KINDS}")
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
    except OSError as error:
        raise InputError(f"overrides={path}: cannot be read ({error.strerror}); {KINDS}") from error
    try:
        found = yaml.safe_load(text) if len(text) <= _LARGEST else None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        raise InputError(f"overrides={path}: neither YAML nor JSON: {' '.join(str(error).split())}") from error
    if not isinstance(found, Mapping):
        raise InputError(f"overrides={path}: allowed is a file with a mapping from tensors to bits, `input: 8` a line")
    return checked_assignment(found)


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # too long, or with a NUL, for a name
        return False


def checked_assignment(overrides: Mapping[Any, Any]) -> dict[str, Width]:
    """Names and widths of the right kinds.

    Raises:
        InputError: naming the tensor.
    """
    for name, width in overrides.items():
        whole = isinstance(width, int) and not isinstance(width, bool) and MIN_BITS <= width <= MAX_BITS
        if not whole and width != FLOAT:
            raise InputError(f"overrides.{name}={width!r}: allowed are {ALLOWED}")
    return {str(name): width for name, width in overrides.items()}


def write_assignment(path: Path, widths: Mapping[str, Width], comment: str) -> None:
    """Write a file that `read_assignment` reads; it appears whole or not at all."""
    lines = [f"# {line}" for line in comment.splitlines()]
    text = yaml.safe_dump(dict(widths), sort_keys=False, width=10_000)
    with replacing(path) as unfinished:
        unfinished.write_text("\n".join([*lines, text]), encoding="utf-8")
