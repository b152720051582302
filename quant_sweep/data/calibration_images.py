"""The images that calibration sees, in batches: drawn from the training images, as they are or augmented.

Ranges are found on what the network will see, so the default is images as they are. The original study calibrated on
randomly cropped and mirrored ones, as its training saw them.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.data.augment import crop_and_flip
from quant_sweep.data.base import DataSet
from quant_sweep.data.subset import calibration_indices
from quant_sweep.errors import InputError

_CROP_PADDING = 4  # black pixels on each side, as in the usual training on CIFAR-10


@dataclass(frozen=True, eq=False)
class CalibrationImages:
    """Training images that calibration sees; never test images.

    Attributes:
        data: whose training images.
        indices: which, int64 (count,), in the order in which they are seen.
        batch_size: images per batch.
        augment_seed: crop and mirror every image at random with this seed; None leaves them as they are.
    """

    data: DataSet
    indices: Tensor
    batch_size: int
    augment_seed: int | None = None

    @property
    def digest(self) -> str:
        augmented = b"" if self.augment_seed is None else f"augmented {self.augment_seed}".encode()
        return hashlib.sha256(self.indices.numpy().tobytes() + augmented).hexdigest()

    def batches(self, device: torch.device) -> Iterator[Tensor]:
        """Normalised images, float32 (batch, channels, height, width); the same at every call and on every device."""
        generator = None if self.augment_seed is None else torch.Generator().manual_seed(self.augment_seed)
        for indices in self.indices.split(self.batch_size):
            images = self.data.train.images[indices]
            if generator is not None:
                images = crop_and_flip(images, _CROP_PADDING, flip=True, generator=generator)
            yield self.data.normalize(images.to(device))


@final
@dataclass(frozen=True, eq=False)
class TrainingImages:
    """Training images by their numbers, read when they are asked for; without labels.

    Attributes:
        data: whose training images.
        indices: which, int64 (count,).
        device: where they are used.
    """

    data: DataSet
    indices: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, numbers: Tensor | slice) -> Tensor:
        """Normalised images, float32 (k, channels, height, width), of int64 (k,)."""
        return self.data.normalize(self.data.train.images[self.indices[numbers]].to(self.device))


@functools.lru_cache(maxsize=1)
def draw_calibration_images(
    data: DataSet, count: int, batch_size: int, seed: int, augment: bool = False, balanced: bool = True
) -> CalibrationImages:
    """A seeded subset of the training images.

    Args:
        data: whose training images.
        count: how many.
        batch_size: images per batch.
        seed: of the draw, and of the augmentation.
        augment: random crop, padded by 4 black pixels on each side, and mirror, of each image.
        balanced: each class gives the same share; else labels are not used.

    Raises:
        InputError: there are not that many, or what shall be augmented is no image.
    """
    if augment and data.train.images.dtype != torch.uint8:
        raise InputError("calibration.augment=true: the inputs are no uint8 images; allowed is false")
    indices = calibration_indices(data.train.strata, count, seed, balanced)
    return CalibrationImages(data, indices, batch_size, seed if augment else None)
