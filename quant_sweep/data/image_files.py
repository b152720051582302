"""Image files in folders: finding them, telling whether one changed, decoding those that can be."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from quant_sweep.data.decode import decode_images
from quant_sweep.errors import InputError

log = logging.getLogger(__name__)

_NAMED = 10  # broken files that are named one by one


def image_files(root: Path, folder: str) -> Iterator[str]:
    """The files below root/folder whose ending names a format that PIL reads, relative to root; hidden ones are passed
    over, links to folders followed.

    Raises:
        InputError: a link leads back to a folder above it.
        OSError: a folder may not be read.
    """
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    for inside, below, names in os.walk(root / folder, onerror=_raise, followlinks=True):
        _check_no_loop(root, inside, below)
        relative = os.path.relpath(inside, root)
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in endings:
                yield f"{relative}/{name}"


def _check_no_loop(root: Path, inside: str, below: Sequence[str]) -> None:
    """Refuse a link that leads back to a folder above it: following it would never end."""
    for name in below:
        path = os.path.join(inside, name)
        if os.path.islink(path) and Path(inside).resolve().is_relative_to(os.path.realpath(path)):
            raise InputError(f"data.root={root}: {path} is a link to a folder above it; remove it")


def _raise(error: OSError) -> None:
    raise error  # os.walk passes over a folder that it may not read, and its images would be missing in silence


def existing(root: str | None, layout: str) -> Path:
    """The folder `data.root`; `layout` says what is allowed.

    Raises:
        InputError: there is none.
    """
    if root is None:
        raise InputError(f"data.root=null: no folder given; {layout}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InputError(f"data.root={root}: no such folder; {layout}")
    return folder


def listing_digest(root: Path, files: Iterable[str]) -> str:
    """Hash what tells whether any file changed: path, size in bytes and time of last change of each."""
    digest = hashlib.sha256()
    prefix = os.fspath(root)
    for file in files:
        status = os.stat(f"{prefix}/{file}")
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def decode_usable(files: Sequence[Path], size: int, resize: int, skip_broken: bool) -> tuple[Tensor, Tensor]:
    """The images that can be decoded, uint8 (kept, 3, size, size), and which of the files they are, int64 (kept,).

    Raises:
        InputError: one cannot be, and `skip_broken` is false.
    """
    images, broken = decode_images(files, size, resize, skip_broken)
    if not broken:
        return images, torch.arange(len(files))
    for error in list(broken.values())[:_NAMED]:
        log.warning("data.skip_broken=true: %s", error)
    kept = torch.tensor([place for place in range(len(files)) if place not in broken], dtype=torch.int64)
    return images[kept], kept
