"""Augmentation of a whole uint8 batch at once, on the device that holds it.

Random crop and mirror are one gather: each image has its own row and column numbers into the padded batch. The crop
with 4 black pixels of padding is He et al. 2015, arXiv:1512.03385, section 4.2; cutout is DeVries and Taylor 2017,
arXiv:1708.04552. Leaves out: colour changes, rotation, mixing of images.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["crop_and_flip", "cut_out"]


def crop_and_flip(images: Tensor, padding: int, flip: bool, generator: torch.Generator) -> Tensor:
    """Shift every image by up to `padding` pixels each way, and mirror about half of them.

    Args:
        images: uint8 (n, c, h, w).
        padding: black pixels on each side before the crop.
        flip: mirror at random.
        generator: on the device of the images.

    Returns:
        uint8 (n, c, h, w), channels last.
    """
    count, _, height, width = images.shape
    device = images.device
    shift = torch.randint(0, 2 * padding + 1, (2, count, 1), generator=generator, device=device)
    rows = shift[0] + torch.arange(height, device=device)  # (n, h)
    columns = shift[1] + torch.arange(width, device=device)  # (n, w)
    if flip:
        mirrored = torch.rand((count, 1), generator=generator, device=device) < 0.5
        columns = torch.where(mirrored, columns.flip(1), columns)
    padded = F.pad(images, (padding, padding, padding, padding))
    image = torch.arange(count, device=device).view(-1, 1, 1)
    gathered = padded[image, :, rows[:, :, None], columns[:, None, :]]  # (n, h, w, c)
    return gathered.permute(0, 3, 1, 2)


def cut_out(images: Tensor, size: int, fill: Tensor, generator: torch.Generator) -> Tensor:
    """Paint a square over each image, centred on any of its pixels and cut off at the border.

    Args:
        images: uint8 (n, c, h, w).
        size: side of the square, pixels.
        fill: uint8 (c,), the colour; the mean colour becomes 0 when normalised.
        generator: on the device of the images.

    Returns:
        uint8 (n, c, h, w).
    """
    count, _, height, width = images.shape
    rows = _inside(count, height, size, generator)
    columns = _inside(count, width, size, generator)
    covered = rows[:, None, :, None] & columns[:, None, None, :]  # (n, 1, h, w)
    return torch.where(covered, fill.view(1, -1, 1, 1), images)


def _inside(count: int, length: int, size: int, generator: torch.Generator) -> Tensor:
    """(count, length) bool: the `size` places around a random one."""
    device = generator.device
    start = torch.randint(0, length, (count, 1), generator=generator, device=device) - size // 2
    place = torch.arange(length, device=device)
    return (place >= start) & (place < start + size)
