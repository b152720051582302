"""What a data set is: two splits of uint8 images, their classes, and how pixels become the network's input.

Or two splits of float32 tensors of any shape, which are the network's input as they are. Images stay uint8 until a
batch is needed: a quarter of the memory of float32, and the normalised batch is made on the device that uses it. A
whole set has to fit in memory (50,000 images of 32 x 32 take 150 MB, of 224 x 224 take 7.5 GB); streaming from disk is
left out.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.runtime.tensor_file import digest_of


@dataclass(frozen=True, eq=False)
class ImageSet:
    """The images of one split.

    images: uint8 (n, channels, height, width), or float32 (n, ...), the network's input as it is.
    labels: int64 (n,), an index into the classes; whole numbers (n, ...), one for each position; float32 (n, ...),
        numbers that the network should return; or None.
    parts: shapes of the inputs where a network takes several; they lie side by side, and images is (n, numbers).
    """

    images: Tensor
    labels: Tensor | None = None
    parts: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return len(self.images)

    @property
    def strata(self) -> Tensor:
        """The class of each sample, int64 (n,), for draws that shall be balanced; without classes it is one for all."""
        if self.labels is not None and self.labels.dim() == 1 and not self.labels.is_floating_point():
            return self.labels
        return torch.zeros(len(self), dtype=torch.int64)


@dataclass(frozen=True, eq=False)
class Decoded:
    """What decoding leaves, before any normalisation: the content of one cache file.

    digest: sha256 hex of everything else here, as `tensor_file.digest_of` gives it.
    """

    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    digest: str


@dataclass(frozen=True, eq=False)
class DataSet:
    """A named image set with the normalisation that its network expects.

    classes: their names; none where the labels are no classes.
    mean, std: one number per channel, of pixel values in [0, 1]; none where the inputs are float32.
    fingerprint: sha256 hex over images, labels and classes of both splits, mean and std.
    """

    name: str
    classes: tuple[str, ...]
    train: ImageSet
    test: ImageSet
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fingerprint: str

    @property
    def channels(self) -> int:
        """Length of axis 1 of the inputs, or of the first of them."""
        if self.train.parts:
            return self.train.parts[0][0] if self.train.parts[0] else 1
        return self.train.images.shape[1] if self.train.images.dim() > 1 else 1

    def normalize(self, images: Tensor) -> Tensor:
        """Turn pixels into the network's input: (x / 255 - mean) / std. What is float32 already is only copied.

        Args:
            images: uint8, (n, channels, height, width), or float32 (n, ...), on any device; not changed.

        Returns:
            float32, same shape and device; with four axes in channels_last memory format.

        Raises:
            ValueError: not uint8, or another number of channels than mean and std have.
        """
        if images.dtype == torch.float32 and not self.mean:
            layout = torch.channels_last if images.dim() == 4 else torch.contiguous_format
            return images.to(memory_format=layout, copy=True)
        if images.dtype != torch.uint8 or images.dim() != 4 or images.shape[1] != len(self.mean):
            raise ValueError(
                f"expected uint8 (n, {len(self.mean)}, height, width), got {images.dtype} {tuple(images.shape)}"
            )
        mean = torch.tensor(self.mean, device=images.device).view(1, -1, 1, 1)  # (1, channels, 1, 1)
        std = torch.tensor(self.std, device=images.device).view(1, -1, 1, 1)
        pixels = images.to(torch.float32, memory_format=torch.channels_last, copy=True)
        return pixels.div_(255).sub_(mean).div_(std)


def decoded(classes: Sequence[str], train: ImageSet, test: ImageSet) -> Decoded:
    """Put decoded splits together with the digest of their content.

    Raises:
        ValueError: shapes, dtypes or labels that contradict each other.
    """
    return with_digest(classes, train, test, digest_of(*stored_form(classes, train, test)))


def with_digest(classes: Sequence[str], train: ImageSet, test: ImageSet, digest: str) -> Decoded:
    """As `decoded`, where the digest is known already."""
    for split in (train, test):
        _check_split(split, len(classes))
    return Decoded(tuple(classes), train, test, digest)


def stored_form(classes: Sequence[str], train: ImageSet, test: ImageSet) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the text that a cache file holds, and that the digest is made of."""
    tensors = {"train.images": train.images, "test.images": test.images}
    labels = {"train.labels": train.labels, "test.labels": test.labels}
    tensors |= {name: tensor for name, tensor in labels.items() if tensor is not None}
    return tensors, {"classes": json.dumps(list(classes)), **parts_text(train.parts)}


def parts_text(parts: Sequence[Sequence[int]]) -> dict[str, str]:
    """The text of the shapes of several inputs; none of one."""
    return {"parts": json.dumps([list(part) for part in parts])} if parts else {}


def data_set(name: str, content: Decoded, mean: Sequence[float], std: Sequence[float]) -> DataSet:
    """Give decoded images their name and normalisation; what is float32 has none.

    Raises:
        InputError: mean or std that do not fit the images, see `check_normalization`.
    """
    if content.train.images.dtype == torch.float32:
        mean, std = (), ()
    else:
        mean, std = check_normalization(mean, std, content.train.images.shape[1])
    fingerprint = hashlib.sha256(json.dumps([content.digest, mean, std]).encode()).hexdigest()
    return DataSet(name, content.classes, content.train, content.test, mean, std, fingerprint)


def check_normalization(
    mean: Sequence[float], std: Sequence[float], channels: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Check the normalisation before any image is decoded; return it as plain floats.

    Raises:
        InputError: another count than channels, a mean outside [0, 1] or a std outside (0, 1]. Statistics in units of
            0..255 are the usual mistake, and they would only show as a poor accuracy.
    """
    means = _floats("data.mean", mean, channels)
    stds = _floats("data.std", std, channels)
    if not all(0 <= value <= 1 for value in means):  # nan fails every comparison
        raise InputError(
            f"data.mean={_shown(mean)}: outside [0, 1]; allowed: the mean of pixel values scaled to [0, 1]"
        )
    if not all(0 < value <= 1 for value in stds):
        raise InputError(f"data.std={_shown(std)}: outside (0, 1]; allowed: the std of pixel values scaled to [0, 1]")
    return means, stds


def check_size(key: str, size: int) -> int:
    """Check a number of pixels; key is what the person types, for example `data.size`.

    Raises:
        InputError: not a whole number of at least 1.
    """
    if isinstance(size, bool) or not isinstance(size, int) or size < 1:
        raise InputError(f"{key}={size}: not a number of pixels; allowed: a whole number from 1")
    return size


def check_sizes(size: int, resize: int | None) -> int:
    """Check `data.size` and `data.resize`; returns the second, which is the first where it is None.

    Raises:
        InputError: one is no number of pixels, or what is resized is smaller than what is cut out of it.
    """
    check_size("data.size", size)
    resize = size if resize is None else check_size("data.resize", resize)
    if resize < size:
        raise InputError(f"data.resize={resize}: smaller than data.size; allowed: at least {size}, or null")
    return resize


def _check_split(split: ImageSet, classes: int) -> None:
    images, labels = split.images, split.labels
    if images.dtype != torch.float32 and (images.dtype != torch.uint8 or images.dim() != 4):
        raise ValueError(
            "images must be uint8 (n, channels, height, width) or float32 (n, ...), "
            f"got {images.dtype} {tuple(images.shape)}"
        )
    if labels is None or labels.dtype == torch.float32:
        if labels is not None and len(labels) != len(images):
            raise ValueError(f"labels must be float32 ({len(images)}, ...), got {tuple(labels.shape)}")
        return
    of_positions = labels.dim() > 1 and labels.dtype in (torch.uint8, torch.int64)
    if not (of_positions or labels.dtype == torch.int64) or labels.shape[:1] != images.shape[:1]:
        raise ValueError(f"labels must be int64 ({len(images)},), got {labels.dtype} {tuple(labels.shape)}")
    if not of_positions and len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise ValueError(f"labels must lie in [0, {classes}), got {int(labels.min())} to {int(labels.max())}")


def _floats(key: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    try:
        floats = tuple(float(value) for value in values)
    except (TypeError, ValueError):
        raise InputError(
            f"{key}={_shown(values)}: not a list of numbers; allowed: {channels}, one per channel"
        ) from None
    if len(floats) != channels:
        raise InputError(f"{key}={_shown(values)}: {len(floats)} numbers; allowed: {channels}, one per channel")
    if not all(math.isfinite(value) for value in floats):
        raise InputError(f"{key}={_shown(values)}: not finite; allowed: {channels} finite numbers, one per channel")
    return floats


def _shown(values: object) -> str:
    return str(values).replace(" ", "")
