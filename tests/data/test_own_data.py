"""A person's own data, however they hold it, is what was given; what cannot be used is named in one line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset, TensorDataset

from quant_sweep.data import arrays, custom, draw_calibration_images
from quant_sweep.data.base import DataSet
from quant_sweep.errors import InputError

GENERATOR = torch.Generator().manual_seed(0)
SPECTROGRAMS = torch.randn(24, 1, 49, 10, generator=GENERATOR)
PICTURES = torch.randint(0, 256, (24, 3, 8, 8), dtype=torch.uint8, generator=GENERATOR)
LABELS = torch.arange(24) % 4


class Pictures(Dataset):
    """As torchvision's data sets are: PIL images, and names of the classes."""

    classes = ("cat", "dog", "cow", "owl")

    def __len__(self) -> int:
        return len(PICTURES)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(PICTURES[index].permute(1, 2, 0).numpy()), int(LABELS[index])


def both(split: Any) -> Any:
    return lambda: (split, split)


GIVEN = {
    "a pair of tensors": (SPECTROGRAMS, LABELS),
    "a pair of arrays": [SPECTROGRAMS.double().numpy(), LABELS.to(torch.int32).numpy()],
    "TensorDataset": TensorDataset(SPECTROGRAMS, LABELS),
    "a list": [(x.numpy(), np.int64(y)) for x, y in zip(SPECTROGRAMS, LABELS.tolist(), strict=True)],
}


def load(monkeypatch: pytest.MonkeyPatch, splits: Any, tmp_path: Path, **more: Any) -> DataSet:
    factory = splits if callable(splits) else both(splits)
    monkeypatch.setattr("quant_sweep.data.from_factory.imported", lambda *_: factory)
    values = {"kwargs": None, "version": None, "mean": None, "std": None} | more
    return custom(name="own", factory="own:data", cache_dir=str(tmp_path), **values)


@pytest.mark.parametrize("given", GIVEN)
def test_floats_of_any_shape_are_taken_as_they_are(given: str, monkeypatch, tmp_path: Path) -> None:
    data = load(monkeypatch, GIVEN[given], tmp_path)
    assert torch.equal(data.normalize(data.test.images), SPECTROGRAMS)
    assert torch.equal(data.train.labels, LABELS)
    assert (data.classes, data.mean, data.channels) == (("0", "1", "2", "3"), (), 1)


@pytest.mark.parametrize("split", [Pictures(), (PICTURES, LABELS)])
def test_pictures_are_normalised(split: Any, monkeypatch, tmp_path: Path) -> None:
    data = load(monkeypatch, split, tmp_path, mean=[0.5] * 3, std=[0.25] * 3)
    assert torch.equal(data.train.images, PICTURES)
    torch.testing.assert_close(data.normalize(PICTURES), (PICTURES / 255 - 0.5) / 0.25)
    assert data.classes == (Pictures.classes if isinstance(split, Dataset) else ("0", "1", "2", "3"))


@pytest.mark.parametrize("shape", [(24, 7), (24, 6, 128), (24, 2, 3, 4, 5)])
def test_the_network_may_write_over_its_input(shape: tuple[int, ...], monkeypatch, tmp_path: Path) -> None:
    data = load(monkeypatch, (torch.ones(shape), LABELS), tmp_path)
    data.normalize(data.test.images).zero_()
    assert bool((data.test.images == 1).all())


def test_a_version_is_read_once(monkeypatch, tmp_path: Path) -> None:
    calls = []

    def build() -> tuple[Any, Any]:
        calls.append(1)
        return both((SPECTROGRAMS, LABELS))()

    prints = [load(monkeypatch, build, tmp_path, version=v).fingerprint for v in ("1", "1", "2", None, None)]
    assert len(calls) == 4
    assert len(set(prints)) == 1, "what it is called does not matter"


REFUSED = {
    "whole numbers": ((SPECTROGRAMS.long(), LABELS), "inputs are torch.int64"),
    "uint8 of three axes": ((PICTURES[:, 0], LABELS), "inputs are torch.uint8 .24, 8, 8.; allowed are uint8 images"),
    "NaN": ((SPECTROGRAMS / 0 * 0, LABELS), "NaN or infinity"),
    "too few labels": ((SPECTROGRAMS, LABELS[:5]), "labels are torch.int64 .5,. for 24 inputs"),
    "labels below 0": ((SPECTROGRAMS, LABELS - 1), "labels begin at -1"),
    "labels as flags": ((SPECTROGRAMS, LABELS > 0), "labels are torch.bool"),
    "labels of NaN": ((SPECTROGRAMS, LABELS / 0 * 0), "labels hold NaN or infinity"),
    "nothing": ((SPECTROGRAMS[:0], LABELS[:0]), "holds nothing"),
    "a label now and then": (
        [(SPECTROGRAMS[0], 1), (SPECTROGRAMS[1],)],
        r"item 1 is label none, item 0 torch.int64 \(\)",
    ),
    "words for labels": ([(SPECTROGRAMS[0], "cat")] * 3, "label 0 is 'cat'; allowed is the number of a class"),
    "several shapes": (
        [(SPECTROGRAMS[0], 0), (SPECTROGRAMS[1], 1), (SPECTROGRAMS[0, :, :5], 0)],
        r"item 2 is torch.float32 \(1, 5, 10\), item 0 torch.float32 \(1, 49, 10\)",
    ),
    "no data": ("data", "is a str; allowed are a tensor of inputs, a pair"),
    "no data at all": (5, "is a int; allowed are a tensor of inputs, a pair of tensors"),
    "pictures without mean": ((PICTURES, LABELS), "data.mean=null: the inputs are uint8 images"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, monkeypatch, tmp_path: Path) -> None:
    split, words = REFUSED[name]
    with pytest.raises(InputError, match=words) as error:
        load(monkeypatch, split, tmp_path)
    assert "\n" not in str(error.value)


MASKS = torch.randint(0, 3, (24, 49, 10), dtype=torch.uint8, generator=GENERATOR)
TARGETS = torch.randn(24, 2, generator=GENERATOR)
OTHER_LABELS = {
    "none": (SPECTROGRAMS, None, 0),
    "none, of a Dataset": (list(SPECTROGRAMS), None, 0),
    "none, of pairs": ([(x, None) for x in SPECTROGRAMS], None, 0),
    "numbers": ((SPECTROGRAMS, TARGETS.double()), TARGETS, 0),
    "a number each": ([(x, y.item()) for x, y in zip(SPECTROGRAMS, TARGETS[:, 0], strict=True)], TARGETS[:, 0], 0),
    "masks": (list(zip(SPECTROGRAMS, MASKS, strict=True)), MASKS, 3),
    "masks with gaps": ((SPECTROGRAMS, MASKS.where(MASKS > 0, 255)), MASKS.where(MASKS > 0, 255), 3),
    "pictures of masks": (
        [(x, Image.fromarray(m.numpy())) for x, m in zip(SPECTROGRAMS, MASKS, strict=True)],
        MASKS,
        3,
    ),
}


@pytest.mark.parametrize("name", OTHER_LABELS)
def test_labels_of_every_kind(name: str, monkeypatch, tmp_path: Path) -> None:
    """Or none; also from the cache."""
    given, labels, classes = OTHER_LABELS[name]
    for version in ("1", "1"):
        data = load(monkeypatch, given, tmp_path, version=version)
        assert torch.equal(data.test.images, SPECTROGRAMS)
        assert len(data.classes) == classes
        if labels is None:
            assert data.train.labels is None
        else:
            assert torch.equal(data.train.labels, labels)
    drawn = draw_calibration_images(data, 20, 8, seed=0)
    assert len(set(drawn.indices.tolist())) == 20


def test_a_dataset_is_read_into_one_file(monkeypatch, tmp_path: Path) -> None:
    """By several processes too, and whatever it is called; beside a tensor; and nothing is left of one that fails."""
    items = list(zip(SPECTROGRAMS, LABELS, strict=True))
    one, two = (load(monkeypatch, items, tmp_path, workers=workers) for workers in (0, 2))
    assert one.fingerprint == two.fingerprint == load(monkeypatch, items, tmp_path, version="1").fingerprint
    assert one.fingerprint == load(monkeypatch, lambda: (items, (SPECTROGRAMS, LABELS)), tmp_path).fingerprint
    assert torch.equal(two.test.images, SPECTROGRAMS)
    assert len(list((tmp_path / "data").glob("*.safetensors"))) == 2, "that without a name, and the one of the version"
    with pytest.raises(InputError):
        load(monkeypatch, [*items, "x"], tmp_path)
    assert len(list((tmp_path / "data").glob("*"))) <= 3, "and a lock"
    with pytest.raises(InputError, match=r"data\.workers=-1"):
        load(monkeypatch, items, tmp_path, workers=-1)


def test_splits_of_two_kinds_of_labels(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="labels of two kinds"):
        load(monkeypatch, lambda: ((SPECTROGRAMS, LABELS), SPECTROGRAMS), tmp_path)


def test_splits_of_two_shapes(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"train holds .*\(1, 49, 10\), test .*\(1, 49, 5\)"):
        load(monkeypatch, lambda: ((SPECTROGRAMS, LABELS), (SPECTROGRAMS[..., :5], LABELS)), tmp_path)


def test_mean_of_floats(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.std=.1.0.: the inputs are float and taken as they are"):
        load(monkeypatch, (SPECTROGRAMS, LABELS), tmp_path, std=[1.0])


def test_what_the_factory_returns_and_takes(monkeypatch, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"data.factory=own:data: returned a int; it must return \(train, test\)"):
        load(monkeypatch, lambda: 5, tmp_path)
    with pytest.raises(InputError, match=r"data.kwargs=\{'a': 1\}: own:data .*unexpected keyword argument 'a'"):
        load(monkeypatch, lambda: 5, tmp_path, kwargs={"a": 1})


def written(folder: Path, ending: str, **tensors: Tensor) -> str:
    path = folder / f"a.{ending}"
    if ending == "npz":
        np.savez(path, **{name: value.numpy() for name, value in tensors.items()})
    else:
        save_file(tensors, path)
    return str(path)


@pytest.mark.parametrize("ending", ["npz", "safetensors"])
def test_arrays(ending: str, tmp_path: Path) -> None:
    path = written(tmp_path, ending, inputs=SPECTROGRAMS, labels=LABELS)
    data = arrays(name="a", train=path, test=path, mean=None, std=None)
    assert torch.equal(data.train.images, SPECTROGRAMS)
    assert torch.equal(data.test.labels, LABELS)
    with pytest.raises(InputError, match="holds no 'inputs'"):
        arrays(name="a", train=path, test=written(tmp_path, ending, labels=LABELS), mean=None, std=None)
    path = written(tmp_path, ending, inputs=SPECTROGRAMS)
    assert arrays(name="a", train=path, test=path, mean=None, std=None).test.labels is None
    Path(path).write_bytes(Path(path).read_bytes()[:700])
    with pytest.raises(InputError, match=r"data.train=.*cannot be read"):
        arrays(name="a", train=path, test=path, mean=None, std=None)


def test_an_npz_of_python_objects_is_not_executed(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", inputs=np.array([object()], dtype=object), labels=np.zeros(1, dtype=int))
    path = str(tmp_path / "a.npz")
    with pytest.raises(InputError, match=r"data.train=.*cannot be read .*pickle"):
        arrays(name="a", train=path, test=path, mean=None, std=None)


@pytest.mark.parametrize("path", [None, "missing.npz"])
def test_files_that_are_not_there(path: str | None) -> None:
    with pytest.raises(InputError, match=r"data.train=.*: no (such )?file"):
        arrays(name="a", train=path, test=path, mean=None, std=None)
