"""How many images a float network computes on together, on a CPU: as many as stay in its cache between two layers.

With a ResNet-50 and images of CIFAR's size 8 at a time are twice as fast as 128 at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


def images_that_stay_in_cache(bytes_an_image: int, cached_bytes: int, fewest: int) -> int:
    """How many images fill the cache with the largest tensor that a layer makes of them.

    Args:
        bytes_an_image: of that tensor.
        cached_bytes: what the cache holds of it.
        fewest: what is returned at least, for below it reading the weights costs more than the cache gains.
    """
    return max(cached_bytes // bytes_an_image, fewest)


@torch.no_grad()
def largest_bytes_an_image(network: nn.Module, image: Tensor) -> int:
    """Of the tensors that the layers of `network` make of one image, (1, ...); the network is run once."""
    largest = image.nbytes

    def measure(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.nbytes)

    hooks = [module.register_forward_hook(measure) for module in network.modules()]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return largest
