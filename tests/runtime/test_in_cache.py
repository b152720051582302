"""The number of images goes by the largest tensor that a layer makes, and never below what is asked for at least."""

import pytest
import torch
from small_networks import cifar_resnet20, images
from torch import nn

from quant_sweep.graph import Fusion, capture
from quant_sweep.runtime.in_cache import images_that_stay_in_cache, largest_bytes_an_image


@pytest.mark.parametrize(("channels", "count"), [(8, 64), (32, 16), (64, 8), (1000, 8)])
def test_the_largest_output_of_a_layer_decides(channels: int, count: int) -> None:
    network = nn.Sequential(nn.Conv2d(3, channels, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    largest = largest_bytes_an_image(network, torch.zeros(1, 3, 32, 32))
    assert largest == 4 * 32 * 32 * max(channels, 3)
    assert images_that_stay_in_cache(largest, 2**21, 8) == count
    assert not any(module._forward_hooks for module in network.modules())


def test_a_network_without_layers_is_measured_by_its_images() -> None:
    class Functional(nn.Module):
        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor]:
            return (x.mean(dim=(2, 3)),)

    largest = largest_bytes_an_image(Functional(), torch.zeros(1, 4, 64, 64))
    assert images_that_stay_in_cache(largest, 2**21, 8) == 32


def test_a_graph_knows_it_without_being_run() -> None:
    model = cifar_resnet20()
    graph = capture(model, images(2, size=32), Fusion.none).graph
    assert graph.largest_bytes_an_image == largest_bytes_an_image(model, images(1, size=32)) == 4 * 16 * 32 * 32
