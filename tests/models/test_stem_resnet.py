"""torchvision's ResNets with the stem for small pictures."""

import pytest
import torch
import torchvision
from torch import nn

from quant_sweep import models


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50"])
def test_only_the_stem_differs_from_torchvision(name: str) -> None:
    ours = getattr(models, name)(num_classes=10, in_channels=3).state_dict()
    theirs = getattr(torchvision.models, name)(num_classes=10).state_dict()
    assert list(ours) == list(theirs)
    assert [key for key in ours if ours[key].shape != theirs[key].shape] == ["conv1.weight"]
    assert ours["conv1.weight"].shape == (64, 3, 3, 3)


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 8)])
def test_last_stage_sees_an_eighth_of_the_picture(channels: int, size: int) -> None:
    model = models.resnet18(num_classes=5, in_channels=channels).eval()
    shapes = []
    model.layer4.register_forward_hook(lambda _module, _inputs, output: shapes.append(tuple(output.shape)))
    assert model(torch.rand(2, channels, size, size)).shape == (2, 5)
    assert shapes == [(2, 512, size // 8, size // 8)]
    assert isinstance(model.maxpool, nn.Identity)
