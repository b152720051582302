"""Decode image files to one uint8 tensor, on every core.

Threads, since PIL releases the interpreter lock while it decodes JPEG or PNG and while it resizes. Its WebP decoder
keeps the lock, so a second core gains nothing there; worker processes would, but each would import torch first.
Resizing and cropping are torchvision's own, so that a network that was evaluated with torchvision's presets sees the
same pixels here. EXIF orientation is ignored and an animation gives its first frame, as in
`torchvision.datasets.ImageFolder`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from rich.console import Console
from rich.progress import Progress
from torch import Tensor
from torchvision.transforms import functional as transforms

from quant_sweep.errors import InputError

IMAGES_PER_TASK = 64  # a task per 32 x 32 image would cost as much as decoding it
SECONDS_WITHOUT_BAR = 1.0


def decode_images(files: Sequence[Path], size: int, resize: int) -> Tensor:
    """Decode files in their order, with a progress bar on stderr when it takes more than a moment.

    Returns:
        uint8 RGB, (len(files), 3, size, size).

    Raises:
        InputError: a file that cannot be decoded; the others are then not waited for.
    """
    images = torch.empty((len(files), 3, size, size), dtype=torch.uint8)
    pixels = images.numpy()  # the same memory

    def decode_task(start: int) -> int:
        batch = files[start : start + IMAGES_PER_TASK]
        for index, file in enumerate(batch, start):
            pixels[index] = decode_image(file, size, resize).transpose(2, 0, 1)
        return len(batch)

    started = time.monotonic()
    progress = Progress(console=Console(stderr=True), transient=True)
    bar = progress.add_task("decoding images", total=len(files))
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        tasks = [pool.submit(decode_task, start) for start in range(0, len(files), IMAGES_PER_TASK)]
        try:
            for task in as_completed(tasks):
                progress.advance(bar, task.result())
                if time.monotonic() - started > SECONDS_WITHOUT_BAR:
                    progress.start()  # does nothing when it is on screen already
        finally:
            progress.stop()
            pool.shutdown(wait=False, cancel_futures=True)
    return images


def decode_image(file: Path, size: int, resize: int) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Decode one file to uint8 RGB, (size, size, 3).

    An image of size x size is taken pixel for pixel. Any other is resized (bilinear, antialiased) until its shorter
    side is `resize` pixels, and its centre is cut out.

    Raises:
        InputError: the file is damaged, no image, or has more than 8 bits per channel.
    """
    try:
        with Image.open(file) as opened:
            mode = opened.mode
            image = opened.convert("RGB")
    except Exception as error:  # PIL's decoders raise many types on damaged files, struct.error and IndexError included
        raise InputError(
            f"data.root: cannot decode {file} ({type(error).__name__}: {error}); replace or remove that file"
        ) from error
    if mode in ("F", "I") or mode.startswith("I;"):  # converting clips these at 255 instead of scaling them
        raise InputError(f"data.root: {file} has pixels of PIL mode {mode}; allowed: at most 8 bits per channel")
    if image.size != (size, size):
        image = transforms.center_crop(transforms.resize(image, resize, antialias=True), size)
    return np.asarray(image)
