"""Image folders as they are found: other splits, links, 16-bit colours, pipes, broken files."""

from __future__ import annotations

import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from quant_sweep.data import DataSet, imagefolder
from quant_sweep.data.decode import decode_image
from quant_sweep.errors import InputError


def picture(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (value, value, value)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            for index in range(3):
                picture(tmp_path / "root" / split / name / f"{index}.png", index)
    return tmp_path / "root"


def load(root: Path, **more: object) -> DataSet:
    common: dict = {"name": "x", "size": 8, "resize": None, "mean": [0.5] * 3, "std": [0.5] * 3}
    return imagefolder(root=str(root), cache_dir=str(root.parent / "cache"), **common, **more)


@pytest.mark.parametrize("split", ["val", "validation"])
def test_another_test_split_is_taken_and_said(root: Path, split: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (root / "test").rename(root / split)
    assert len(load(root).test.labels) == 6
    assert f"accuracy is measured on {split}/" in caplog.text


def test_splits_by_name(root: Path) -> None:
    (root / "train").rename(root / "fit")
    picture(root / "hold" / "cat" / "a.png")
    picture(root / "hold" / "dog" / "a.png")
    data = load(root, train_split="fit", test_split="hold")
    assert (len(data.train.labels), len(data.test.labels)) == (6, 2)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"train_split": "../x"}, r"data\.train_split=\.\./x: allowed is the name of a folder"),
        ({"test_split": ".."}, r"data\.test_split=\.\.: allowed"),
        ({"test_split": "train"}, r"data\.test_split=train: these are the training images"),
        ({"test_split": "nowhere"}, "no folder nowhere/ in it"),
    ],
)
def test_wrong_splits(root: Path, more: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        load(root, **more)


def test_links_to_folders_are_followed(root: Path, tmp_path: Path) -> None:
    for index in range(4):
        picture(tmp_path / "elsewhere" / f"{index}.png")
    (root / "train" / "cow").symlink_to(tmp_path / "elsewhere")
    (root / "test" / "cow").mkdir()
    (root / "test" / "cow" / "more").symlink_to(tmp_path / "elsewhere")
    data = load(root)
    assert data.classes == ("cat", "cow", "dog")
    assert (len(data.train.labels), len(data.test.labels)) == (10, 10)


@pytest.mark.parametrize("target", [".", "..", "../.."])
def test_a_link_to_a_folder_above_is_refused(root: Path, target: str) -> None:
    (root / "train" / "cat" / "loop").symlink_to(target)
    with pytest.raises(InputError, match=r"cat/loop is a link to a folder above it"):
        load(root)


def test_a_pipe_is_named_instead_of_waited_for(root: Path) -> None:
    os.mkfifo(root / "train" / "cat" / "pipe.png")
    with pytest.raises(InputError, match=r"pipe\.png is no file but a pipe, device or folder"):
        load(root)


def test_broken_files_are_left_out_counted_and_named(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    (root / "train" / "cat" / "1.png").write_bytes(b"nonsense")
    with pytest.raises(InputError, match=r"cannot decode .*cat/1\.png"):
        load(root)
    data = load(root, skip_broken=True)
    assert data.train.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 2, 0, 1, 2]
    assert "1 of 6 files in train/ left out" in caplog.text
    assert "cannot decode" in caplog.text
    caplog.clear()
    load(root, skip_broken=True)
    assert "1 of 6 files in train/ left out" in caplog.text, "said from the cache too"


def test_a_class_of_broken_files_is_refused(root: Path) -> None:
    for file in (root / "test" / "dog").iterdir():
        file.write_bytes(b"nonsense")
    with pytest.raises(InputError, match="no file of class dog can be decoded"):
        load(root, skip_broken=True)


def test_more_than_memory_is_refused(root: Path) -> None:
    with pytest.raises(InputError, match=r"data\.size=10000000: .* GB, and this machine has"):
        imagefolder(
            root=str(root), cache_dir=str(root.parent), name="x", size=10**7, resize=None, mean=[0.5] * 3, std=[1.0] * 3
        )


def png_of_16_bits(path: Path, colour_type: int, channels: int) -> None:
    """PIL writes none."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + np.full(4 * channels, 300, dtype=">u2").tobytes() for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, colour_type, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize(("colour_type", "channels"), [(2, 3), (6, 4), (4, 2), (0, 1)])
def test_16_bits_are_refused_in_colour_as_in_grey(tmp_path: Path, colour_type: int, channels: int) -> None:
    png_of_16_bits(tmp_path / "a.png", colour_type, channels)
    with pytest.raises(InputError, match=r"a\.png has pixels of PIL mode .*at most 8 bits per channel"):
        decode_image(tmp_path / "a.png", 4, 4)


def test_16_bits_of_a_portable_pixmap(tmp_path: Path) -> None:
    (tmp_path / "a.ppm").write_bytes(b"P6 2 2 65535\n" + b"\x01\x2c" * 12)
    with pytest.raises(InputError, match="at most 8 bits per channel"):
        decode_image(tmp_path / "a.ppm", 2, 2)
