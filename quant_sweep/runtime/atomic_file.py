"""Files that appear whole or not at all: nobody reads a partial one."""

from __future__ import annotations

import contextlib
import os
import uuid
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Write to the path given, a unique name in the same folder; leaving the block puts it in place of `path`.

    An exception leaves `path` as it was and nothing beside it. What was written is on the disk before it is seen.

    Raises:
        OSError: the folder cannot be written.
    """
    unfinished = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        yield unfinished
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)
