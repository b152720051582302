"""The number of images goes by the largest tensor that a layer makes, and never below what is asked for at least."""

import pytest
import torch
from torch import nn

from quant_sweep.runtime.in_cache import images_that_stay_in_cache


@pytest.mark.parametrize(("channels", "images"), [(8, 64), (32, 16), (64, 8), (1000, 8)])
@pytest.mark.parametrize("measured_with", [1, 3])
def test_the_largest_output_of_a_layer_decides(channels: int, images: int, measured_with: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, channels, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    assert images_that_stay_in_cache(network, torch.zeros(measured_with, 3, 32, 32), 2**21, 8) == images
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_layers_is_measured_by_its_images() -> None:
    class Functional(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (x.mean(dim=(2, 3)),)

    assert images_that_stay_in_cache(Functional(), torch.zeros(1, 4, 64, 64), 2**21, 8) == 32
