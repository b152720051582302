"""Decode image files to one uint8 tensor, on every core.

Threads, since PIL releases the interpreter lock while it decodes JPEG or PNG and while it resizes. Its WebP decoder
keeps the lock, so a second core gains nothing there; worker processes would, but each would import torch first.
Resizing and cropping are torchvision's own, so that a network that was evaluated with torchvision's presets sees the
same pixels here. EXIF orientation is ignored and an animation gives its first frame, as in
`torchvision.datasets.ImageFolder`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import functional as transforms

from quant_sweep.errors import InputError
from quant_sweep.runtime.progress import tracked

IMAGES_PER_TASK = 64  # a task per 32 x 32 image would cost as much as decoding it


def decode_images(
    files: Sequence[Path], size: int, resize: int, skip_broken: bool = False
) -> tuple[Tensor, dict[int, InputError]]:
    """Decode files in their order.

    Args:
        skip_broken: go on where a file cannot be decoded.

    Returns:
        uint8 RGB, (len(files), 3, size, size), black where a file was skipped; and what is wrong with those, by place.

    Raises:
        InputError: a file that cannot be decoded, or more images than memory holds; the others are not waited for.
    """
    _check_memory(len(files), size)
    broken: dict[int, InputError] = {}
    images = torch.empty((len(files), 3, size, size), dtype=torch.uint8)
    pixels = images.numpy()  # the same memory

    def decode_task(start: int) -> None:
        batch = files[start : start + IMAGES_PER_TASK]
        for index, file in enumerate(batch, start):
            try:
                pixels[index] = decode_image(file, size, resize).transpose(2, 0, 1)
            except InputError as error:
                if not skip_broken:
                    raise
                broken[index], pixels[index] = error, 0

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = [pool.submit(decode_task, start) for start in range(0, len(files), IMAGES_PER_TASK)]
        try:
            for task in tracked(as_completed(tasks), "decoding images", len(tasks)):
                task.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return images, dict(sorted(broken.items()))


def _check_memory(count: int, size: int) -> None:
    """Refuse a size in which the images do not fit into the memory of this machine."""
    wanted, there = count * 3 * size * size, os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    if wanted > there:
        raise InputError(
            f"data.size={size}: {count:,} images of that size take {wanted / 1e9:,.0f} GB, and this machine has "
            f"{there / 1e9:,.0f} GB; choose a smaller size"
        )


def decode_image(file: Path, size: int, resize: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decode one file to uint8 RGB, (size, size, 3).

    As torchvision's Resize(resize), CenterCrop(size) and PILToTensor: resized (bilinear, antialiased) until its shorter
    side is `resize` pixels, which changes nothing where it is that already, and its centre cut out.

    Raises:
        InputError: the file is damaged, no image or no file, or has more than 8 bits per channel.
    """
    if not file.is_file():  # opening a pipe or a device may wait for ever
        raise InputError(f"data.root: {file} is no file but a pipe, device or folder; remove it")
    try:
        with Image.open(file) as opened:
            mode = _mode(opened)
            image = opened.convert("RGB")
    except Exception as error:  # PIL's decoders raise many types on damaged files, struct.error and IndexError included
        raise InputError(
            f"data.root: cannot decode {file} ({type(error).__name__}: {error}); replace or remove that file"
        ) from error
    if mode in ("F", "I") or ";16" in mode:  # converting clips grey at 255 and takes the high byte of colours
        raise InputError(f"data.root: {file} has pixels of PIL mode {mode}; allowed: at most 8 bits per channel")
    return np.asarray(transforms.center_crop(transforms.resize(image, resize, antialias=True), size))


def _mode(image: Image.Image) -> str:
    """PIL's mode of an image, or of what lies in the file where that has 16 bits and PIL would show 8 of them."""
    for tile in getattr(image, "tile", ()):
        arguments = tile[3] if isinstance(tile[3], tuple) else (tile[3],)
        for argument in arguments:
            if isinstance(argument, str) and ";16" in argument:
                return argument
        if tile[0] in ("ppm", "ppm_plain") and isinstance(arguments[-1], int) and arguments[-1] > 255:
            return f"{image.mode};16"
    return image.mode
