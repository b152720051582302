"""Files that are made once and read from then on: by one process, while others that want the same file wait for it.

A file that cannot be read back as it was written is made again, with a warning. Old files are never deleted; their
folder may be removed at any time.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock
from safetensors import SafetensorError

from quant_sweep.errors import InputError

log = logging.getLogger(__name__)

Content = TypeVar("Content")


def made_once(
    path: Path,
    read_intact: Callable[[Path], Content | None],
    make: Callable[[], Content],
    write: Callable[[Path, Content], None],
) -> Content:
    """What `path` holds, or what `make` makes for it now.

    Args:
        path: cache_dir / kind / name.
        read_intact: None where there is no file, or where it does not hold what was written.
        make: called at most once, and by one process at a time.
        write: has the file appear whole or not at all.

    Raises:
        InputError: the folder cannot be written. Known before `make` starts, except for a disk that fills up.
    """
    content = read_intact(path)  # a finished file is replaced whole, so reading it needs no lock
    if content is not None:
        return content
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.access(path.parent, os.W_OK):
            raise PermissionError(f"{path.parent} is read-only")
        held = FileLock(f"{path}.lock").acquire()
    except OSError as error:
        raise _not_writable(path, error) from error
    with held:
        content = read_intact(path)  # another process may have made it while this one waited
        if content is None:
            if path.exists():
                log.warning("%s is damaged; it is made again", path)
            content = make()
            try:
                write(path, content)
            except (OSError, SafetensorError) as error:
                raise _not_writable(path, error) from error
    return content


def _not_writable(path: Path, error: Exception) -> InputError:
    return InputError(f"cache_dir={path.parents[1]}: cannot write there ({error}); allowed: a writable folder")
