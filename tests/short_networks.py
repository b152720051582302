"""torchvision's architectures with few blocks, every kind of block once or twice: they are captured in a fraction."""

from collections.abc import Callable
from functools import partial

import torch
from torch import nn
from torchvision import models
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.densenet import DenseNet
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.googlenet import BasicConv2d, Inception
from torchvision.models.mobilenetv2 import MobileNetV2
from torchvision.models.mobilenetv3 import InvertedResidualConfig, MobileNetV3
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.shufflenetv2 import ShuffleNetV2
from torchvision.models.vgg import VGG, make_layers


def _mobilenet_v3(num_classes: int) -> nn.Module:
    block = partial(InvertedResidualConfig, dilation=1, width_mult=1.0)
    blocks = [
        block(16, 3, 16, 16, True, "RE", stride=2),
        block(16, 3, 72, 24, False, "RE", stride=2),
        block(24, 3, 88, 24, False, "RE", stride=1),
        block(24, 5, 96, 40, True, "HS", stride=2),
        block(40, 5, 240, 40, True, "HS", stride=1),
    ]
    return MobileNetV3(blocks, last_channel=64, num_classes=num_classes)


def _efficientnet(num_classes: int) -> nn.Module:
    block = partial(MBConvConfig, width_mult=1.0, depth_mult=1.0)
    blocks = [block(1, 3, 1, 32, 16, 1), block(6, 3, 2, 16, 24, 2), block(6, 5, 2, 24, 40, 1)]
    return EfficientNet(blocks, dropout=0.2, last_channel=64, num_classes=num_classes)


def _googlenet(num_classes: int) -> nn.Module:
    stem = BasicConv2d(3, 16, kernel_size=3, padding=1), nn.MaxPool2d(3, 2, ceil_mode=True)
    blocks = Inception(16, 8, 8, 16, 4, 8, 8), Inception(40, 8, 8, 16, 4, 8, 8)
    return nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(40, num_classes))


def _vgg(num_classes: int) -> nn.Module:
    model = VGG(make_layers([16, "M", 32, "M", 32, "M"], batch_norm=True), init_weights=False)
    model.classifier[0], model.classifier[3] = nn.Linear(32 * 7 * 7, 32), nn.Linear(32, 32)
    model.classifier[6] = nn.Linear(32, num_classes)
    return model


SHORT: dict[str, Callable[..., nn.Module]] = {
    "resnet18": partial(ResNet, BasicBlock, [2, 1, 1, 1]),
    "mobilenet_v2": partial(MobileNetV2, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 2, 2], [6, 32, 1, 2]]),
    "mobilenet_v3_small": _mobilenet_v3,
    "densenet121": partial(DenseNet, 8, (2, 2, 2, 2), 16),
    "efficientnet_b0": _efficientnet,
    "shufflenet_v2_x0_5": partial(ShuffleNetV2, [2, 1, 1], [24, 48, 96, 192, 64]),
    "googlenet": _googlenet,
    "vgg11_bn": _vgg,
    "convnext_tiny": partial(ConvNeXt, [CNBlockConfig(24, 48, 2), CNBlockConfig(48, None, 1)]),
}


def short_network(name: str, num_classes: int = 10, seed: int = 0) -> nn.Module:
    """torchvision's `name` with random weights; what is not in `SHORT` is whole."""
    torch.manual_seed(seed)
    if name in SHORT:
        return SHORT[name](num_classes=num_classes)
    return models.get_model(name, weights=None, num_classes=num_classes)
