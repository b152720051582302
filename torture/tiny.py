"""A network that is captured, calibrated and evaluated in a moment."""

from __future__ import annotations

import torch
from torch import nn


def network(num_classes: int, in_channels: int, seed: int = 0) -> nn.Module:
    """The same weights every time for a seed."""
    generator = torch.Generator().manual_seed(seed)
    convolution, linear = nn.Conv2d(in_channels, 4, 3, padding=1), nn.Linear(4, num_classes)
    model = nn.Sequential(convolution, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model.eval()
