"""CIFAR-10 by way of torchvision: the conversion, and what is said when there is no data.

The archive's pickles are checked by md5, so small ones of ours cannot be read through torchvision itself: a
stand-in takes the place of its class there.
"""

from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest
import torch
import yaml
from torchvision.datasets import CIFAR10
from torchvision.datasets import utils as downloads

from quant_sweep.data import DataSet, cifar10, torchvision_cifar10
from quant_sweep.errors import InputError

CONF = Path(__file__).parents[2] / "conf/data"


def load(root: Path, **changes: Any) -> DataSet:
    config = yaml.safe_load((CONF / "cifar10.yaml").read_text())
    assert config.pop("_target_") == "quant_sweep.data.cifar10"
    return cifar10(**{**config, "root": str(root), "cache_dir": str(root / "cache"), **changes})


class FakeCIFAR10:
    """What the factory uses of torchvision's class: 3 training images and 2 test images of random pixels."""

    train_list, test_list = CIFAR10.train_list, CIFAR10.test_list
    classes = [str(label) for label in range(10)]  # noqa: RUF012

    def __init__(self, root: str, train: bool, download: bool) -> None:  # noqa: ARG002
        count = 3 if train else 2
        self.data = np.random.default_rng(count).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        self.targets = list(range(count))


def test_images_become_channels_first_and_are_cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torchvision_cifar10, "CIFAR10", FakeCIFAR10)
    data = load(tmp_path)
    train = FakeCIFAR10("", train=True, download=False)
    assert torch.equal(data.train.images.permute(0, 2, 3, 1), torch.from_numpy(train.data))
    assert data.train.labels.tolist() == [0, 1, 2]
    assert data.test.images.shape == (2, 3, 32, 32)
    monkeypatch.setattr(torchvision_cifar10, "CIFAR10", CIFAR10)  # has no data: only the cache can answer
    assert load(tmp_path, download=False).fingerprint == data.fingerprint


def test_download_that_fails_says_where_to_place_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise URLError("no route to host")

    monkeypatch.setattr(downloads, "_urlretrieve", unreachable)
    monkeypatch.setattr(downloads, "_get_redirect_url", lambda url, **_: url)
    with pytest.raises(InputError) as caught:
        load(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"data.root={tmp_path}: ")
    for part in ("no route to host", "cifar-10-python.tar.gz", "cifar-10-batches-py/", "data=imagefolder data.root="):
        assert part in message
    assert "\n" not in message


def test_without_download_the_network_is_never_touched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "_urlretrieve", lambda *_: pytest.fail("touched the network"))
    with pytest.raises(InputError, match=r"data\.download=true"):
        load(tmp_path, download=False)


def test_files_of_other_content_are_not_opened(tmp_path: Path) -> None:
    folder = tmp_path / CIFAR10.base_folder
    folder.mkdir()
    for name, _ in [*CIFAR10.train_list, *CIFAR10.test_list]:
        (folder / name).write_bytes(b"not what the authors made")
    with pytest.raises(InputError, match=r"^data\.root="):
        load(tmp_path, download=False)
