"""torchvision's ResNets for small pictures: the first convolution is 3x3 with stride 1 and the max-pool is gone.

A 32x32 picture reaches the last stage at 4x4 instead of 1x1. This is the ResNet-50 of the study, whose first layer is
`Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)`. Names of parameters are torchvision's.
Leaves out: pretrained weights, which belong to the 7x7 stem (see `torchvision_model`). Inside a block torchvision uses
one `relu` module two or three times; a name of a tensor there needs the use as well as the module.
"""

from torch import nn
from torchvision import models
from torchvision.models import ResNet

__all__ = ["resnet18", "resnet34", "resnet50"]


def resnet18(num_classes: int, in_channels: int) -> ResNet:
    """ResNet-18 with the CIFAR stem, 11 million parameters."""
    return _with_cifar_stem(models.resnet18(num_classes=num_classes), in_channels)


def resnet34(num_classes: int, in_channels: int) -> ResNet:
    """ResNet-34 with the CIFAR stem, 21 million parameters."""
    return _with_cifar_stem(models.resnet34(num_classes=num_classes), in_channels)


def resnet50(num_classes: int, in_channels: int) -> ResNet:
    """ResNet-50 with the CIFAR stem, 24 million parameters."""
    return _with_cifar_stem(models.resnet50(num_classes=num_classes), in_channels)


def _with_cifar_stem(model: ResNet, in_channels: int) -> ResNet:
    model.conv1 = nn.Conv2d(in_channels, 64, 3, stride=1, padding=1, bias=False)
    nn.init.kaiming_normal_(model.conv1.weight, mode="fan_out", nonlinearity="relu")  # as torchvision does
    model.maxpool = nn.Identity()
    return model
