"""The bundled digits: exact pixels, a stratified split that never mixes, and the numbers in its yaml."""

from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from sklearn.datasets import load_digits

from quant_sweep.data import DataSet, digits
from quant_sweep.errors import InputError

CONF = Path(__file__).parents[2] / "conf/data"


def load(cache_dir: Path, **changes: Any) -> DataSet:
    config = yaml.safe_load((CONF / "digits.yaml").read_text())
    assert config.pop("_target_") == "quant_sweep.data.digits"
    return digits(**{**config, "cache_dir": str(cache_dir), **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    return load(tmp_path_factory.mktemp("cache"))


def test_split_is_stratified_and_big_enough_to_calibrate_on(data: DataSet) -> None:
    assert (len(data.train.labels), len(data.test.labels)) == (1347, 450)
    train, test = data.train.labels.bincount(), data.test.labels.bincount()
    assert ((test / (train + test) - 0.25).abs() < 0.01).all()
    assert data.classes == tuple("0123456789")


def test_every_image_is_in_one_split_scaled_exactly(data: DataSet) -> None:
    bunch = load_digits()
    expected = sorted(
        (int(label), *(round(value * 255 / 16) for value in image))
        for label, image in zip(bunch.target, bunch.data.tolist(), strict=True)
    )
    found = sorted(
        (label, *image.flatten().tolist())
        for split in (data.train, data.test)
        for label, image in zip(split.labels.tolist(), split.images, strict=True)
    )
    assert found == expected


def test_mean_and_std_in_the_yaml_are_those_of_the_training_split(data: DataSet) -> None:
    pixels = data.train.images.double() / 255
    assert data.mean == pytest.approx([pixels.mean().item()], abs=5e-5)
    assert data.std == pytest.approx([pixels.std(correction=0).item()], abs=5e-5)


def test_seed_decides_the_split(data: DataSet, tmp_path: Path) -> None:
    assert load(tmp_path).fingerprint == data.fingerprint
    assert load(tmp_path, seed=1).fingerprint != data.fingerprint


def test_another_size_is_resized(tmp_path: Path) -> None:
    assert load(tmp_path, size=16).train.images.shape == (1347, 1, 16, 16)


def test_normalized_training_images_have_mean_0_and_std_1(data: DataSet) -> None:
    batch = data.normalize(data.train.images)
    assert batch.mean().item() == pytest.approx(0, abs=1e-3)
    assert batch.std().item() == pytest.approx(1, abs=1e-3)
    assert torch.isfinite(batch).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"test_fraction": 0.0}, r"^data\.test_fraction=0\.0: .*allowed: 0\.1 to 0\.9"),
        ({"test_fraction": float("nan")}, r"^data\.test_fraction=nan"),
        ({"size": 0}, r"^data\.size=0"),
        ({"mean": [0.5, 0.5, 0.5]}, r"^data\.mean=.*3 numbers; allowed: 1"),
        ({"std": [0.0]}, r"^data\.std="),
    ],
)
def test_bad_values_name_their_key(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        load(tmp_path, **changes)
    assert list(tmp_path.iterdir()) == []
