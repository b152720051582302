"""CIFAR-10 in its original form, 50,000 training and 10,000 test images of 32 x 32, by way of torchvision.

The archive holds pickles. torchvision checks the md5 of each before it opens it, so only the authors' own are read.

Source: A. Krizhevsky, Learning Multiple Layers of Features from Tiny Images, 2009.
"""

from __future__ import annotations

from collections.abc import Sequence
from http.client import HTTPException

import torch
from torchvision.datasets import CIFAR10

from quant_sweep.data.base import DataSet, Decoded, ImageSet, check_normalization, data_set, decoded
from quant_sweep.data.cache import decoded_once
from quant_sweep.errors import InputError


def cifar10(
    *, name: str, root: str, mean: Sequence[float], std: Sequence[float], download: bool, cache_dir: str
) -> DataSet:
    """Load CIFAR-10, downloading it to root when it is not there and `download` is true.

    Args:
        root: folder of the archive (170 MB) and what is unpacked from it. Not needed once the decoded set is cached.
        mean, std: see `DataSet`, three channels.
        download: false: use what lies in root and never touch the network.

    Raises:
        InputError: the images are not there and cannot be downloaded; the message says where to place them. A bad mean
            or std, or a cache_dir that cannot be written.
    """
    check_normalization(mean, std, channels=3)
    source = {"md5": [*CIFAR10.train_list, *CIFAR10.test_list]}  # torchvision refuses files of any other content
    content = decoded_once("cifar10", source, cache_dir, lambda: _load(root, download))
    return data_set(name, content, mean, std)


def _load(root: str, download: bool) -> Decoded:
    try:
        train = CIFAR10(root, train=True, download=download)
        test = CIFAR10(root, train=False, download=False)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"data.root={root}: no CIFAR-10 there, and download={str(download).lower()} did not bring it ({reason}); "
            f"place {CIFAR10.filename} from {CIFAR10.url} there and keep data.download=true, which unpacks it, "
            f"or place the unpacked {CIFAR10.base_folder}/ there; the same images as PNG or WebP also do: "
            "data=imagefolder data.root=FOLDER with train/<class>/ and test/<class>/"
        ) from error
    return decoded(tuple(train.classes), _split(train), _split(test))


def _split(source: CIFAR10) -> ImageSet:
    images = torch.from_numpy(source.data).permute(0, 3, 1, 2).contiguous()  # (n, 32, 32, 3) -> (n, 3, 32, 32)
    return ImageSet(images, torch.tensor(source.targets, dtype=torch.int64))
