"""A person's own folder: what is read, what is refused, when it is decoded again."""

import os
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from quant_sweep.data import DataSet, image_files, imagefolder
from quant_sweep.errors import InputError

ARCHIVE = Path(__file__).parents[3] / "shared/cifar10/cifar10-test.tar.gz"


def save(path: Path, value: int, size: int = 4) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((size, size, 3), value, dtype=np.uint8)).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Classes b and a; the value of every pixel tells which image it is."""
    for value, path in enumerate(
        ["train/a/1.png", "train/a/2.bmp", "train/b/1.png", "train/b/deep/2.PNG", "test/a/9.png", "test/b/9.png"]
    ):
        save(tmp_path / "images" / path, value)
    return tmp_path / "images"


def load(root: Path | str | None, **changes: Any) -> DataSet:
    cache_dir = root and Path(root).parent / "cache"
    defaults = {"name": "own", "size": 4, "resize": None, "mean": [0.5] * 3, "std": [0.25] * 3}
    return imagefolder(root=root and str(root), cache_dir=str(cache_dir), **{**defaults, **changes})


def test_images_and_labels_come_in_sorted_order(root: Path) -> None:
    data = load(root)
    assert data.classes == ("a", "b")
    assert data.train.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert data.train.labels.tolist() == [0, 0, 1, 1]
    assert data.test.images[:, 0, 0, 0].tolist() == [4, 5]
    assert data.test.labels.tolist() == [0, 1]
    assert data.train.images.shape == (4, 3, 4, 4)


def test_hidden_and_other_files_are_passed_over(root: Path) -> None:
    (root / "train/a/.hidden.png").write_text("no image")
    (root / "train/a/readme.txt").write_text("no image")
    (root / "train/.cache").mkdir()
    assert len(load(root).train.labels) == 4


def test_cached_until_a_file_or_the_size_changes(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded_files: list[int] = []
    decode = image_files.decode_images
    monkeypatch.setattr(
        image_files, "decode_images", lambda files, *sizes: decoded_files.append(len(files)) or decode(files, *sizes)
    )
    first = load(root)
    assert load(root).fingerprint == first.fingerprint
    assert decoded_files == [4, 2]
    save(root / "train/a/1.png", 200)
    os.utime(root / "train/a/1.png", ns=(1, 1))  # a file of the same size, written within the clock's tick
    changed = load(root)
    assert changed.fingerprint != first.fingerprint
    assert changed.train.images[0, 0, 0, 0] == 200
    assert load(root, size=8).train.images.shape[-1] == 8
    assert len(decoded_files) == 6


def test_moved_folder_keeps_its_cache(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(root)
    moved = root.rename(root.with_name("moved"))
    monkeypatch.delattr(image_files, "decode_images")
    assert load(moved).fingerprint == first.fingerprint


def test_resize_then_crop(root: Path) -> None:
    save(root / "train/a/1.png", 77, size=40)
    data = load(root, size=8, resize=10)
    assert data.train.images.shape == (4, 3, 8, 8)
    assert data.train.images[0].unique().tolist() == [77]


def refused(message: str, root: Path | str | None, **changes: Any) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(root, **changes)
    assert "\n" not in str(caught.value)


def test_no_root() -> None:
    refused(r"^data\.root=null: no folder given; allowed: a folder with train/<class>/", None)


def test_missing_root(tmp_path: Path) -> None:
    refused(r"^data\.root=.*none: no such folder", tmp_path / "none")


@pytest.mark.parametrize("split", ["train", "test"])
def test_missing_split(root: Path, split: str) -> None:
    (root / split).rename(root / "elsewhere")
    refused(rf"^data\.root=.*: no folder {split}/", root)


def test_no_classes(tmp_path: Path) -> None:
    save(tmp_path / "images/train/1.png", 0)
    refused(r"image folder without classes", tmp_path / "images")


@pytest.mark.parametrize(("split", "other"), [("train", "test"), ("test", "train")])
def test_classes_must_be_the_same(root: Path, split: str, other: str) -> None:
    save(root / split / "extra/1.png", 0)
    refused(rf"1 classes missing in {other}/, first extra", root)


def test_class_without_images(root: Path) -> None:
    (root / "test/b/9.png").unlink()
    refused(r"class without images, test/b/", root)


def test_corrupt_image_is_named_and_nothing_is_cached(root: Path) -> None:
    (root / "train/b/1.png").write_bytes(b"\x89PNG broken")
    refused(r"cannot decode .*train/b/1\.png", root)
    assert not list(root.parent.rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"size": 0}, r"^data\.size=0"),
        ({"size": 8.5}, r"^data\.size=8\.5"),
        ({"resize": -1}, r"^data\.resize=-1"),
        ({"size": 8, "resize": 7}, r"^data\.resize=7: smaller than data\.size; allowed: at least 8"),
        ({"mean": [0.5]}, r"^data\.mean="),
        ({"std": [0.0, 0.2, 0.2]}, r"^data\.std="),
    ],
)
def test_bad_values_fail_before_the_folder_is_read(changes: dict[str, Any], message: str) -> None:
    refused(message, "/does/not/exist", **changes)


@pytest.mark.skipif(not ARCHIVE.exists(), reason="needs the CIFAR-10 archive beside the checkout")
def test_real_cifar_images_are_read_pixel_for_pixel(tmp_path: Path) -> None:
    root = tmp_path / "cifar"
    with tarfile.open(ARCHIVE) as archive:
        members = [member for member in (archive.next() for _ in range(40)) if member and member.isfile()]
        archive.extractall(root, members=members, filter="data")
    files = sorted((root / "test").rglob("*.webp"))
    assert files
    for name in {file.parent.name for file in files}:  # any training images will do
        save(root / "train" / name / "1.png", 0, size=32)
    data = load(root, size=32)
    assert len(data.test.images) == len(files)
    for file, image in zip(files, data.test.images, strict=True):
        assert torch.equal(image, torch.from_numpy(np.array(Image.open(file).convert("RGB"))).permute(2, 0, 1))
