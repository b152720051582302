"""The data set itself: normalisation and what the fingerprint depends on."""

import math

import pytest
import torch

from quant_sweep.data.base import DataSet, Decoded, ImageSet, check_normalization, data_set, decoded
from quant_sweep.errors import InputError


def content(seed: int = 0, channels: int = 3, classes: tuple[str, ...] = ("cat", "dog")) -> Decoded:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (6, channels, 4, 5), dtype=torch.uint8, generator=generator)
    labels = torch.tensor([0, 1, 0, 1, 0, 1])
    return decoded(classes, ImageSet(images[:4], labels[:4]), ImageSet(images[4:], labels[4:]))


def named(content: Decoded) -> DataSet:
    return data_set("pets", content, [0.5, 0.4, 0.3], [0.25, 0.2, 0.1])


def test_normalize_is_the_formula_and_leaves_the_images_alone() -> None:
    data = named(content())
    before = data.train.images.clone()
    batch = data.normalize(data.train.images)
    mean, std = torch.tensor(data.mean).double(), torch.tensor(data.std).double()
    expected = (before.double() / 255 - mean.view(1, 3, 1, 1)) / std.view(1, 3, 1, 1)
    torch.testing.assert_close(batch.double(), expected, rtol=0, atol=1e-6)
    assert batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(data.train.images, before)


@pytest.mark.parametrize("images", [torch.zeros(2, 3, 4, 4), torch.zeros(2, 1, 4, 4, dtype=torch.uint8)])
def test_normalize_refuses_other_images(images: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="expected uint8"):
        named(content()).normalize(images)


def test_fingerprint_changes_with_everything_that_reaches_the_network() -> None:
    plain = content()
    pixel = plain.test.images.clone()
    pixel[0, 0, 0, 0] ^= 1
    swapped = decoded(plain.classes, plain.train, ImageSet(plain.test.images, plain.test.labels.flip(0)))
    prints = [
        named(plain).fingerprint,
        named(decoded(plain.classes, plain.train, ImageSet(pixel, plain.test.labels))).fingerprint,
        named(swapped).fingerprint,
        named(content(classes=("cat", "cow"))).fingerprint,
        data_set("pets", plain, [0.5, 0.4, 0.31], [0.25, 0.2, 0.1]).fingerprint,
        data_set("pets", plain, [0.5, 0.4, 0.3], [0.25, 0.2, 0.11]).fingerprint,
    ]
    assert len(set(prints)) == len(prints)


def test_fingerprint_is_the_same_for_the_same_content() -> None:
    assert named(content()).fingerprint == data_set("other", content(), (0.5, 0.4, 0.3), (0.25, 0.2, 0.1)).fingerprint


@pytest.mark.parametrize(
    ("mean", "std", "message"),
    [
        ([0.5], [0.2, 0.2, 0.2], r"data\.mean=\[0\.5\]: 1 numbers; allowed: 3"),
        ([0.5, 0.5, 0.5], [0.2, 0.2], r"data\.std=\[0\.2,0\.2\]: 2 numbers"),
        ([0.5, 0.5, 0.5], [0.2, 0.0, 0.2], r"data\.std=.*outside \(0, 1\]"),
        ([0.5, 0.5, 0.5], [0.2, -0.1, 0.2], r"data\.std=.*outside"),
        ([0.5, 0.5, 0.5], [0.2, math.nan, 0.2], r"data\.std=.*not finite"),
        ([0.5, math.inf, 0.5], [0.2, 0.2, 0.2], r"data\.mean=.*not finite"),
        ([123.7, 116.3, 103.5], [0.2, 0.2, 0.2], r"data\.mean=.*outside \[0, 1\]"),
        (["a", 0.5, 0.5], [0.2, 0.2, 0.2], r"data\.mean=.*not a list of numbers"),
        (0.5, [0.2, 0.2, 0.2], r"data\.mean=0\.5: not a list of numbers"),
    ],
)
def test_bad_normalization_names_its_key(mean: list[float], std: list[float], message: str) -> None:
    with pytest.raises(InputError, match=message):
        check_normalization(mean, std, channels=3)


def test_decoded_refuses_labels_without_a_class() -> None:
    images = torch.zeros(2, 1, 2, 2, dtype=torch.uint8)
    with pytest.raises(ValueError, match="labels must lie in"):
        decoded(("a",), ImageSet(images, torch.tensor([0, 1])), ImageSet(images, torch.tensor([0, 0])))
