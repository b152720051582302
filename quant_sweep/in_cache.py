"""How many images a float network computes on together, on a CPU: as many as stay in its cache between two layers.

With a ResNet-50 and images of CIFAR's size 8 at a time are twice as fast as 128 at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

# About the second-level cache of two cores; more images gain nothing, for each layer is shared out among the threads.
_CACHED_BYTES = 2**21
# Below, reading the weights costs more than the cache gains.
_FEWEST_IMAGES = 8


@torch.no_grad()
def images_that_stay_in_cache(network: nn.Module, images: Tensor) -> int:
    """How many images fill the cache with the largest tensor that a layer makes of them, at least 8.

    Args:
        network: is run once.
        images: one image or a few, float32 (n, channels, height, width).
    """
    largest = images.nbytes

    def measure(_layer: nn.Module, _inputs: Any, output: Any) -> None:
        nonlocal largest
        if isinstance(output, Tensor):
            largest = max(largest, output.numel() * output.element_size())

    hooks = [module.register_forward_hook(measure) for module in network.modules()]
    try:
        network(images)
    finally:
        for hook in hooks:
            hook.remove()
    return max(_CACHED_BYTES * len(images) // largest, _FEWEST_IMAGES)
