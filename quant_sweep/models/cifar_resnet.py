"""The ResNets that He et al. built for CIFAR-10: 3 stages of 16, 32 and 64 channels, 6n + 2 layers.

Source: He et al. 2015, arXiv:1512.03385, section 4.2, with option-A shortcuts: where a stage halves the picture and
doubles the channels, the shortcut takes every second pixel and pads the new channels with zeros, without parameters.

Every activation and the pooling is a module of its own, so that every tensor of the graph has a name
(`layer1.0.relu1`). Names of parameters are those of the checkpoints of github.com/akamaster/pytorch_resnet_cifar10.
Leaves out: options B and C of the paper, and its 1202-layer network.
"""

from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["CifarResNet", "resnet20", "resnet32", "resnet44", "resnet56", "resnet110"]

STAGE_CHANNELS = (16, 32, 64)


@final
class ZeroPadShortcut(nn.Module):
    """Option A: every second pixel, and zeros for the channels that the stage adds, half on either side."""

    def __init__(self, new_channels: int) -> None:
        super().__init__()
        self.before = new_channels // 2
        self.after = new_channels - self.before

    def forward(self, x: Tensor) -> Tensor:
        # (n, c, h, w) -> (n, c + new, ceil(h / 2), ceil(w / 2))
        return F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.before, self.after))


@final
class BasicBlock(nn.Module):
    """Two 3x3 convolutions and the shortcut around them."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        halves = in_channels != channels
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=2 if halves else 1, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.shortcut = ZeroPadShortcut(channels - in_channels) if halves else nn.Identity()
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        out = self.relu1(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out))
        return self.relu2(out + self.shortcut(x))  # type: ignore[no-any-return]


@final
class CifarResNet(nn.Module):
    """(n, in_channels, h, w) float images -> (n, num_classes) logits; any h and w of at least 1.

    Args:
        blocks: blocks per stage, the paper's n; the network has 6n + 2 layers with weights.
        num_classes: classes.
        in_channels: 3 for colour, 1 for grey images.
    """

    def __init__(self, blocks: int, num_classes: int, in_channels: int) -> None:
        super().__init__()
        narrow, middle, wide = STAGE_CHANNELS
        self.conv1 = nn.Conv2d(in_channels, narrow, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(narrow)
        self.relu = nn.ReLU()
        self.layer1 = _stage(narrow, narrow, blocks)
        self.layer2 = _stage(narrow, middle, blocks)
        self.layer3 = _stage(middle, wide, blocks)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(wide, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = self.avgpool(x)  # (n, 64, 1, 1)
        return self.linear(torch.flatten(x, 1))  # type: ignore[no-any-return]


def _stage(in_channels: int, channels: int, blocks: int) -> nn.Sequential:
    return nn.Sequential(*(BasicBlock(in_channels if i == 0 else channels, channels) for i in range(blocks)))


def resnet20(num_classes: int, in_channels: int) -> CifarResNet:
    """ResNet-20, 0.27 million parameters."""
    return CifarResNet(3, num_classes, in_channels)


def resnet32(num_classes: int, in_channels: int) -> CifarResNet:
    """ResNet-32, 0.46 million parameters."""
    return CifarResNet(5, num_classes, in_channels)


def resnet44(num_classes: int, in_channels: int) -> CifarResNet:
    """ResNet-44, 0.66 million parameters."""
    return CifarResNet(7, num_classes, in_channels)


def resnet56(num_classes: int, in_channels: int) -> CifarResNet:
    """ResNet-56, 0.85 million parameters."""
    return CifarResNet(9, num_classes, in_channels)


def resnet110(num_classes: int, in_channels: int) -> CifarResNet:
    """ResNet-110, 1.7 million parameters."""
    return CifarResNet(18, num_classes, in_channels)
