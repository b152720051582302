"""A person's own images: root/train/<class>/* and root/test/<class>/*, in any format that PIL reads.

The folders of the two splits may have other names; without `test`, `val` or `validation` is taken. The layout is that
of `torchvision.datasets.ImageFolder`: classes are the sorted folder names, and files may lie deeper inside a class
folder. Hidden files and files whose ending names no image format are passed over, links to folders are followed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import PIL
import torch

from quant_sweep.data.base import DataSet, Decoded, ImageSet, check_normalization, check_sizes, data_set, decoded
from quant_sweep.data.cache import decoded_once
from quant_sweep.data.image_files import decode_usable, existing, image_files, listing_digest
from quant_sweep.errors import InputError

log = logging.getLogger(__name__)

LAYOUT = "allowed: a folder with train/<class>/ and test/<class>/ full of images"

TEST_SPLITS = ("test", "val", "validation")

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
    train_split: str = "train",
    test_split: str | None = None,
    skip_broken: bool = False,
) -> DataSet:
    """Load an image folder; decode it the first time, and again when a file in it changes.

    Args:
        root: the folder that holds train/ and test/.
        size: height and width of what the network sees, in pixels.
        resize: shorter side before the centre crop; None: size.
        mean, std: see `DataSet`, three channels.
        train_split, test_split: folders in root; None: the first of test, val and validation that is there.
        skip_broken: leave out files that cannot be decoded, and say how many; else the first of them is refused.

    Raises:
        InputError: no such folder, no classes, classes that differ between train and test, a class without images, a
            file that cannot be decoded, a bad size, mean or std, or a cache_dir that cannot be written.
    """
    check_normalization(mean, std, channels=3)
    resize = check_sizes(size, resize)
    folder = existing(root, LAYOUT)
    train_split, test_split = _splits(folder, train_split, test_split)
    try:
        train, test = scan_split(folder, train_split), scan_split(folder, test_split)
        source = {"files": _listing_digest(folder, train, test), "size": size, "resize": resize, "pil": PIL.__version__}
        source |= {"skip_broken": skip_broken}
    except OSError as error:
        raise InputError(f"data.root={root}: cannot be read ({error}); {LAYOUT}") from error
    _check_same_classes(root, {train_split: train, test_split: test})

    def decode() -> Decoded:
        splits = [_decode_split(folder, files, size, resize, skip_broken) for files in (train, test)]
        return decoded(tuple(train), *splits)

    content = decoded_once("imagefolder", source, cache_dir, decode)
    for split, files, kept in ((train_split, train, content.train), (test_split, test, content.test)):
        skipped = sum(map(len, files.values())) - len(kept)
        if skipped:
            log.warning("data.skip_broken=true: %d of %d files in %s/ left out", skipped, skipped + len(kept), split)
    return data_set(name, content, mean, std)


def _splits(root: Path, train: str, test: str | None) -> tuple[str, str]:
    """The folders of the two splits."""
    for key, split in (("train_split", train), ("test_split", test)):
        if split is not None and (Path(split).name != split or split in ("", "..")):
            raise InputError(f"data.{key}={split}: allowed is the name of a folder in data.root")
    if test is None:
        there = [split for split in TEST_SPLITS if (root / split).is_dir()]
        test = there[0] if there else TEST_SPLITS[0]
        if test != TEST_SPLITS[0]:
            log.info("data.test_split: no %s/ in %s, so accuracy is measured on %s/", TEST_SPLITS[0], root, test)
    if train == test:
        raise InputError(f"data.test_split={test}: these are the training images; choose another folder")
    return train, test


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
    files = {name: sorted(image_files(root, f"{split}/{name}")) for name in classes}
    for name, found in files.items():
        if not found:
            raise InputError(
                f"data.root={root}: class without images, {split}/{name}/; {LAYOUT} (.png, .jpg, .webp, ...)"
            )
    return files


def _check_same_classes(root: str | None, splits: Mapping[str, Files]) -> None:
    train, test = splits
    for here, there in ((train, test), (test, train)):
        missing = [name for name in splits[here] if name not in splits[there]]
        if missing:
            raise InputError(
                f"data.root={root}: {len(missing)} classes missing in {there}/, first {missing[0]}; "
                f"allowed: the same class folders in {train}/ and {test}/"
            )


def _listing_digest(root: Path, *splits: Files) -> str:
    return listing_digest(root, (file for files in splits for found in files.values() for file in found))


def _decode_split(root: Path, files: Files, size: int, resize: int, skip_broken: bool) -> ImageSet:
    counts = torch.tensor([len(found) for found in files.values()])
    paths = [root / file for found in files.values() for file in found]
    images, kept = decode_usable(paths, size, resize, skip_broken)
    labels = torch.arange(len(counts)).repeat_interleave(counts)[kept]
    for label, name in enumerate(files):
        if not bool((labels == label).any()):
            raise InputError(f"data.root={root}: no file of class {name} can be decoded; {LAYOUT}")
    return ImageSet(images, labels)
