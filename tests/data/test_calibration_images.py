"""Calibration images: training images only, the same at every call, and augmented the way the slow twin allows."""

import pytest
import torch
from torch import Tensor

from quant_sweep.data import CalibrationImages, DataSet, digits, draw_calibration_images

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> DataSet:
    cache = str(tmp_path_factory.mktemp("cache"))
    return digits(name="digits", size=8, mean=[0.3], std=[0.4], cache_dir=cache, test_fraction=0.25, seed=0)


def seen(images: CalibrationImages) -> Tensor:
    return torch.cat(list(images.batches(CPU)))


def test_are_training_images(data: DataSet) -> None:
    images = draw_calibration_images(data, 100, 32, seed=5)
    assert [len(batch) for batch in images.batches(CPU)] == [32, 32, 32, 4]
    assert torch.equal(seen(images), data.normalize(data.train.images[images.indices]))
    assert images.indices.unique().numel() == 100
    assert torch.bincount(data.train.labels[images.indices]).tolist() == [10] * 10


def crops(image: Tensor) -> set[bytes]:
    """All that cropping and mirroring may make of an image, (channels, 8, 8)."""
    padded = torch.zeros(image.shape[0], 16, 16, dtype=image.dtype)
    padded[:, 4:12, 4:12] = image
    cut = [padded[:, top : top + 8, left : left + 8] for top in range(9) for left in range(9)]
    return {bytes(one.contiguous().numpy().data) for one in [*cut, *(one.flip(2) for one in cut)]}


def test_augmented_is_a_crop_of_the_padded_image_mirrored_or_not(data: DataSet) -> None:
    images = draw_calibration_images(data, 64, 32, seed=1, augment=True)
    plain = draw_calibration_images(data, 64, 32, seed=1)
    assert torch.equal(images.indices, plain.indices)
    pixels = ((seen(images) * 0.4 + 0.3) * 255).round().to(torch.uint8)
    for made, original in zip(pixels, data.train.images[images.indices], strict=True):
        assert bytes(made.contiguous().numpy().data) in crops(original)
    moved = (seen(images) != seen(plain)).flatten(1).any(dim=1)
    assert moved.float().mean() > 0.9  # 1 of 81 stays in place, and half of these are mirrored


def test_augmentation_is_seeded(data: DataSet) -> None:
    images = draw_calibration_images(data, 64, 32, seed=1, augment=True)
    assert torch.equal(seen(images), seen(images)), "a flow may ask for the batches more than once"
    torch.manual_seed(1234)
    again = CalibrationImages(data, images.indices, 32, images.augment_seed)
    assert torch.equal(seen(again), seen(images))
    other = CalibrationImages(data, images.indices, 32, 2)
    assert not torch.equal(seen(other), seen(images))
    assert not torch.equal(seen(images)[:32], seen(images)[32:]), "batches are augmented apart"


def test_digest_names_images_and_augmentation(data: DataSet) -> None:
    drawn = [draw_calibration_images(data, 100, 32, seed, augment) for seed in range(3) for augment in (False, True)]
    assert len({images.digest for images in drawn}) == 6
    assert CalibrationImages(data, drawn[0].indices.clone(), 7).digest == drawn[0].digest
    same = drawn[0].indices
    assert CalibrationImages(data, same, 32, 1).digest != CalibrationImages(data, same, 32, 2).digest
