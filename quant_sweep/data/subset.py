"""A seeded subset of images: those that calibration sees, and those that stand for a whole test set.

Ranges that are found on images of few classes are too narrow for the others, so each class gives the same share, unless
labels shall not be used.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from quant_sweep.errors import InputError


def calibration_indices(labels: Tensor, count: int, seed: int, balanced: bool = True) -> Tensor:
    """Draw `count` different training images, as `balanced_indices` does, or with nothing of `labels` but their number.

    Raises:
        InputError: count is not a whole number from 2 to n.
    """
    if isinstance(count, bool) or not isinstance(count, int) or not 2 <= count <= len(labels):
        raise InputError(
            f"calibration.images={count}: cannot draw that many; "
            f"allowed: a whole number from 2 to {len(labels)}, the number of training images"
        )
    if not balanced:
        return torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))[:count]
    return balanced_indices(labels, count, seed)


def balanced_indices(labels: Tensor, count: int, seed: int) -> Tensor:
    """Draw `count` different images, class-balanced, in an order that mixes the classes.

    The draw depends on labels, count and seed alone, not on torch's global random state. Per-class counts differ by at
    most one; a class that is too small for its share gives all it has and the others share the rest.

    Args:
        labels: classes of the images, int64, (n,).
        count: how many images, at most n.
        seed: of the draw.

    Returns:
        indices into labels, int64, (count,), on the CPU.
    """
    shuffled = torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))  # (n,)
    labels = labels.cpu()[shuffled]
    shares = balanced_shares(torch.bincount(labels).tolist(), count)
    # The first images of each class in shuffled order; sorting their positions restores that order, classes mixed.
    places = torch.cat([(labels == label).nonzero().flatten()[:share] for label, share in enumerate(shares)])
    return shuffled[places.sort().values]


def balanced_shares(sizes: Sequence[int], count: int) -> list[int]:
    """Share out `count` over classes of the given sizes as evenly as the sizes allow.

    Args:
        sizes: images per class.
        count: what to share out, at most sum(sizes).

    Returns:
        images to take per class; they sum to count.
    """
    shares = [0] * len(sizes)
    smallest_first = sorted(range(len(sizes)), key=lambda label: sizes[label])
    for done, label in enumerate(smallest_first):
        # What a small class cannot give stays in `count` and raises the share of the larger ones after it.
        shares[label] = min(sizes[label], count // (len(sizes) - done))
        count -= shares[label]
    return shares
