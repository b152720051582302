"""Pictures without labels: each is in one of the two parts, which a seed decides."""

from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from quant_sweep.data import DataSet, pictures
from quant_sweep.errors import InputError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The value of every pixel tells which picture it is."""
    for value in range(10):
        path = tmp_path / "pictures" / ("deep/er" if value % 2 else ".") / f"{value}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 4, 3), value, dtype=np.uint8)).save(path)
    (tmp_path / "pictures" / "notes.txt").write_text("no picture")
    return tmp_path / "pictures"


def load(root: Path | str | None, **changes: Any) -> DataSet:
    cache_dir = str(root and Path(root).parent / "cache")
    defaults = {"size": 4, "resize": None, "test_fraction": 0.5, "seed": 0, "mean": [0.5] * 3, "std": [0.25] * 3}
    return pictures(name="own", root=root and str(root), cache_dir=cache_dir, **{**defaults, **changes})


def parts(data: DataSet) -> tuple[list[int], list[int]]:
    train, test = (split.images[:, 0, 0, 0].tolist() for split in (data.train, data.test))
    return train, test


def test_each_picture_is_in_one_part(root: Path) -> None:
    data = load(root)
    train, test = parts(data)
    assert sorted(train + test) == list(range(10))
    assert (len(train), data.classes, data.train.labels, data.test.labels) == (5, (), None, None)
    assert parts(load(root)) == (train, test)
    assert parts(load(root, seed=1)) != (train, test)
    assert len(parts(load(root, test_fraction=0.2))[1]) == 2


def test_wrong_values(root: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    for where, changes, words in (
        (None, {}, "data.root=null: no folder given; allowed: a folder with images in it"),
        (tmp_path / "none", {}, "no such folder"),
        (tmp_path / "empty", {}, "0 images in it"),
        (root, {"test_fraction": 0.05}, "data.test_fraction=0.05: cannot split there; allowed: 0.1 to 0.9"),
        (root, {"seed": -1}, "data.seed=-1"),
        (root, {"size": 8, "resize": 4}, "data.resize=4: smaller than data.size"),
    ):
        with pytest.raises(InputError, match=words):
            load(where, **changes)


def test_broken_files(root: Path) -> None:
    (root / "broken.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match="cannot decode"):
        load(root)
    assert sorted(chain(*parts(load(root, skip_broken=True)))) == list(range(10))
