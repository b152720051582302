"""How many images a float network computes on together, on a CPU: as many as stay in its cache between two layers.

With a ResNet-50 and images of CIFAR's size 8 at a time are twice as fast as 128 at a time.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def images_that_stay_in_cache(network: nn.Module, images: Tensor, cached_bytes: int, fewest: int) -> int:
    """How many images fill the cache with the largest tensor that a layer makes of them.

    Args:
        network: is run once.
        images: one image or a few, float32 (n, channels, height, width), n >= 1.
        cached_bytes: what the cache holds of such a tensor.
        fewest: what is returned at least, for below it reading the weights costs more than the cache gains.
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
    return max(cached_bytes * len(images) // largest, fewest)
