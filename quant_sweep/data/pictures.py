"""Pictures in any folder tree, without labels: some for calibration, the others to evaluate on, split by a seed."""

from __future__ import annotations

from collections.abc import Sequence

import PIL
import torch

from quant_sweep.data.base import DataSet, Decoded, ImageSet, check_normalization, check_sizes, data_set, decoded
from quant_sweep.data.cache import decoded_once
from quant_sweep.data.image_files import decode_usable, existing, image_files, listing_digest
from quant_sweep.errors import InputError

_LAYOUT = "allowed: a folder with images in it, at any depth"
_FEWEST = 4  # two for calibration, two to evaluate on


def pictures(
    *,
    name: str,
    root: str | None,
    size: int,
    resize: int | None,
    test_fraction: float,
    seed: int,
    mean: Sequence[float],
    std: Sequence[float],
    cache_dir: str,
    skip_broken: bool = False,
) -> DataSet:
    """Load all pictures of a folder tree; decode them the first time, and again when a file in it changes.

    Args:
        root: the folder; hidden files and files whose ending names no image format are passed over.
        size: height and width of what the network sees, in pixels.
        resize: shorter side before the centre crop; None: size.
        test_fraction: share of the pictures to evaluate on, 0.1 to 0.9; calibration draws from the others.
        seed: of the split.
        mean, std: see `DataSet`, three channels.
        skip_broken: leave out files that cannot be decoded; else the first of them is refused.

    Raises:
        InputError: no such folder, fewer than four pictures, a file that cannot be decoded, a bad size, fraction, mean
            or std, or a cache_dir that cannot be written.
    """
    check_normalization(mean, std, channels=3)
    resize = check_sizes(size, resize)
    if not 0.1 <= test_fraction <= 0.9:
        raise InputError(f"data.test_fraction={test_fraction}: cannot split there; allowed: 0.1 to 0.9")
    if not 0 <= seed < 2**32:
        raise InputError(f"data.seed={seed}: allowed are whole numbers from 0 to {2**32 - 1}")
    folder = existing(root, _LAYOUT)
    try:
        files = sorted(image_files(folder, "."))
        source: dict[str, object] = {"files": listing_digest(folder, files), "size": size, "resize": resize}
    except OSError as error:
        raise InputError(f"data.root={root}: cannot be read ({error}); {_LAYOUT}") from error
    if len(files) < _FEWEST:
        raise InputError(f"data.root={root}: {len(files)} images in it; {_LAYOUT}, {_FEWEST} or more")
    source |= {"pil": PIL.__version__, "skip_broken": skip_broken, "test_fraction": test_fraction, "seed": seed}

    def decode() -> Decoded:
        images, _ = decode_usable([folder / file for file in files], size, resize, skip_broken)
        order = torch.randperm(len(images), generator=torch.Generator().manual_seed(seed))
        count = min(max(round(test_fraction * len(images)), 2), len(images) - 2)
        if count < 2:
            raise InputError(f"data.root={root}: {len(images)} images can be decoded; {_LAYOUT}, {_FEWEST} or more")
        test, train = (images[part.sort().values] for part in (order[:count], order[count:]))
        return decoded((), ImageSet(train), ImageSet(test))

    return data_set(name, decoded_once("pictures", source, cache_dir, decode), mean, std)
