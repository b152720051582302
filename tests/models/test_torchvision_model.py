"""Any torchvision classifier by name; every wrong name or number is one line."""

from typing import Any
from urllib.error import URLError

import pytest
import torch
import torchvision

from quant_sweep.errors import InputError
from quant_sweep.models import from_torchvision


@pytest.mark.parametrize("arch", ["mobilenet_v2", "shufflenet_v2_x0_5", "googlenet"])
def test_architecture_by_name(arch: str) -> None:
    model = from_torchvision(num_classes=7, in_channels=3, arch=arch)
    assert model(torch.rand(2, 3, 64, 64)).shape == (2, 7)  # in training mode too: no auxiliary heads


def test_unknown_architecture_lists_near_names() -> None:
    with pytest.raises(InputError, match=r"^model\.arch=mobilenet_v22: .*mobilenet_v2"):
        from_torchvision(num_classes=10, in_channels=3, arch="mobilenet_v22")


def test_other_than_three_channels() -> None:
    with pytest.raises(InputError, match=r"^model\.arch=mobilenet_v2: takes 3 channels, the images have 1"):
        from_torchvision(num_classes=10, in_channels=1, arch="mobilenet_v2")


def test_unknown_weights_list_the_known() -> None:
    with pytest.raises(InputError, match=r"^model\.weights=IMAGENET: .*IMAGENET1K_V1, IMAGENET1K_V2"):
        from_torchvision(num_classes=1000, in_channels=3, arch="mobilenet_v2", weights="IMAGENET")


def test_weights_of_another_number_of_classes() -> None:
    with pytest.raises(InputError, match=r"^model\.weights=DEFAULT: trained for 1000 classes, the data has 10"):
        from_torchvision(num_classes=10, in_channels=3, arch="mobilenet_v2", weights="DEFAULT")


@pytest.mark.parametrize("failure", [URLError("no route to host"), RuntimeError("invalid hash value")])
def test_failed_download_says_where_to_place_the_file(monkeypatch: pytest.MonkeyPatch, failure: Exception) -> None:
    def fail(*_args: Any, **_kwargs: Any) -> None:
        raise failure

    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", fail)
    with pytest.raises(
        InputError, match=r"^model\.weights=IMAGENET1K_V2: .*place it at .*mobilenet_v2-\w+\.pth"
    ) as error:
        from_torchvision(num_classes=1000, in_channels=3, arch="mobilenet_v2", weights="DEFAULT")
    assert "\n" not in str(error.value)
