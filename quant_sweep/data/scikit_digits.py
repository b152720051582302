"""The handwritten digits that come with scikit-learn: 1,797 grey images of 8 x 8 pixels. No download, seconds to train.

Source: E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits, UCI repository, 1998 (its test part).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version

import torch
from torchvision.transforms import functional as transforms

from quant_sweep.data.base import DataSet, Decoded, ImageSet, check_normalization, check_size, data_set, decoded
from quant_sweep.data.cache import decoded_once
from quant_sweep.errors import InputError

_LARGEST = 512  # pixels; all digits then take half a gigabyte


def digits(
    *,
    name: str,
    size: int,
    mean: Sequence[float],
    std: Sequence[float],
    cache_dir: str,
    test_fraction: float,
    seed: int,
) -> DataSet:
    """Load the digits, split into train and test with every class in the same proportion.

    Args:
        size: height and width in pixels; 8 takes the images as they are, anything else resizes them (bilinear).
        mean, std: see `DataSet`, one channel.
        test_fraction: share of the images that is held back, 0.1 to 0.9.
        seed: of the split. It belongs to the data, so that a trained network never meets other test images.

    Raises:
        InputError: a bad size, mean, std or test_fraction, or a cache_dir that cannot be written.
    """
    check_normalization(mean, std, channels=1)
    check_size("data.size", size)
    if not 0.1 <= test_fraction <= 0.9:
        raise InputError(f"data.test_fraction={test_fraction}: cannot split there; allowed: 0.1 to 0.9")
    if not 0 <= seed < 2**32:
        raise InputError(f"data.seed={seed}: allowed are whole numbers from 0 to {2**32 - 1}")
    if size > _LARGEST:
        raise InputError(f"data.size={size}: allowed are up to {_LARGEST} pixels; the digits have 8")
    source = {"sklearn": version("scikit-learn"), "size": size, "test_fraction": test_fraction, "seed": seed}
    content = decoded_once("digits", source, cache_dir, lambda: _load(size, test_fraction, seed))
    return data_set(name, content, mean, std)


def _load(size: int, test_fraction: float, seed: int) -> Decoded:
    # Imported here: scikit-learn takes a second, and a cached set does not need it.
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    bunch = load_digits()
    values = torch.from_numpy(bunch.images)  # float64, (1797, 8, 8), whole numbers 0..16
    images = (values * 255 / 16).round().to(torch.uint8)[:, None]  # (1797, 1, 8, 8)
    if size != images.shape[-1]:
        images = transforms.resize(images, [size, size], antialias=True)
    labels = torch.from_numpy(bunch.target).to(torch.int64)
    train, test = (
        torch.from_numpy(indices).sort().values
        for indices in train_test_split(
            torch.arange(len(labels)).numpy(), test_size=test_fraction, random_state=seed, stratify=labels.numpy()
        )
    )
    classes = tuple(str(label) for label in bunch.target_names)
    return decoded(classes, ImageSet(images[train], labels[train]), ImageSet(images[test], labels[test]))
