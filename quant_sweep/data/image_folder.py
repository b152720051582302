"""A person's own images: root/train/<class>/* and root/test/<class>/*, in any format that PIL reads.

The layout is that of `torchvision.datasets.ImageFolder`: classes are the sorted folder names, and files may lie deeper
inside a class folder. Hidden files and files whose ending names no image format are passed over.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

import PIL
import torch
from PIL import Image

from quant_sweep.data.base import DataSet, Decoded, ImageSet, check_normalization, check_size, data_set, decoded
from quant_sweep.data.cache import decoded_once
from quant_sweep.data.decode import decode_images
from quant_sweep.errors import InputError

LAYOUT = "allowed: a folder with train/<class>/ and test/<class>/ full of images"

# Class -> its image files relative to root, both sorted. Strings, because sorting 60,000 Paths takes a second.
Files = dict[str, list[str]]


def imagefolder(
    *,
    name: str,
    root: str | None,
    size: int,
    resize: int | None,
    mean: Sequence[float],
    std: Sequence[float],
    cache_dir: str,
) -> DataSet:
    """Load an image folder; decode it the first time, and again when a file in it changes.

    Args:
        root: the folder that holds train/ and test/.
        size: height and width of what the network sees, in pixels.
        resize: shorter side before the centre crop, for images that are not size x size already; None: size.
        mean, std: see `DataSet`, three channels.

    Raises:
        InputError: no such folder, no classes, classes that differ between train and test, a class without images, a
            file that cannot be decoded, a bad size, mean or std, or a cache_dir that cannot be written.
    """
    check_normalization(mean, std, channels=3)
    check_size("data.size", size)
    resize = size if resize is None else check_size("data.resize", resize)
    if resize < size:
        raise InputError(f"data.resize={resize}: smaller than data.size; allowed: at least {size}, or null")
    folder = _existing(root)
    try:
        train, test = scan_split(folder, "train"), scan_split(folder, "test")
        source = {"files": _listing_digest(folder, train, test), "size": size, "resize": resize, "pil": PIL.__version__}
    except OSError as error:
        raise InputError(f"data.root={root}: cannot be read ({error}); {LAYOUT}") from error
    _check_same_classes(root, train, test)

    def decode() -> Decoded:
        splits = [_decode_split(folder, files, size, resize) for files in (train, test)]
        return decoded(tuple(train), *splits)

    return data_set(name, decoded_once("imagefolder", source, cache_dir, decode), mean, std)


def scan_split(root: Path, split: str) -> Files:
    """List the image files of one split, class by class.

    Raises:
        InputError: no such folder, no class in it, or a class without images.
        OSError: a folder that may not be read.
    """
    folder = root / split
    if not folder.is_dir():
        raise InputError(f"data.root={root}: no folder {split}/ in it; {LAYOUT}")
    classes = sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))
    if not classes:
        raise InputError(f"data.root={root}: image folder without classes, {split}/ holds no folder; {LAYOUT}")
    endings = {ending for ending, kind in Image.registered_extensions().items() if kind in Image.OPEN}
    files = {name: sorted(_image_files(root, f"{split}/{name}", endings)) for name in classes}
    for name, found in files.items():
        if not found:
            raise InputError(
                f"data.root={root}: class without images, {split}/{name}/; {LAYOUT} (.png, .jpg, .webp, ...)"
            )
    return files


def _image_files(root: Path, folder: str, endings: set[str]) -> Iterator[str]:
    for inside, _, names in os.walk(root / folder, onerror=_raise):
        relative = os.path.relpath(inside, root)
        for name in names:
            if not name.startswith(".") and os.path.splitext(name)[1].lower() in endings:
                yield f"{relative}/{name}"


def _raise(error: OSError) -> None:
    raise error  # os.walk passes over a folder that it may not read, and its images would be missing in silence


def _existing(root: str | None) -> Path:
    if root is None:
        raise InputError(f"data.root=null: no folder given; {LAYOUT}")
    folder = Path(root).expanduser()
    if not folder.is_dir():
        raise InputError(f"data.root={root}: no such folder; {LAYOUT}")
    return folder


def _check_same_classes(root: str | None, train: Files, test: Files) -> None:
    for here, there, split in ((train, test, "test"), (test, train, "train")):
        missing = [name for name in here if name not in there]
        if missing:
            raise InputError(
                f"data.root={root}: {len(missing)} classes missing in {split}/, first {missing[0]}; "
                "allowed: the same class folders in train/ and test/"
            )


def _listing_digest(root: Path, *splits: Files) -> str:
    """Hash what tells whether any file changed: path, size in bytes and time of last change of each."""
    digest = hashlib.sha256()
    prefix = os.fspath(root)
    for file in (file for files in splits for found in files.values() for file in found):
        status = os.stat(f"{prefix}/{file}")
        digest.update(f"{file}\0{status.st_size}\0{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()


def _decode_split(root: Path, files: Files, size: int, resize: int) -> ImageSet:
    counts = torch.tensor([len(found) for found in files.values()])
    images = decode_images([root / file for found in files.values() for file in found], size, resize)
    return ImageSet(images, torch.arange(len(counts)).repeat_interleave(counts))
