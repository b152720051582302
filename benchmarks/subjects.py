"""The networks that are measured, and the images.

Speed does not depend on the weights, so untrained networks do; BatchNorm has statistics as a trained one has them.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quant_sweep import models
from quant_sweep.calibration.one_pass import Calibration, calibrate
from quant_sweep.graph import Fusion, capture


def network(name: str) -> nn.Module:
    """An untrained network of the package for CIFAR-sized images, in evaluation mode."""
    torch.manual_seed(0)
    model: nn.Module = getattr(models, name)(num_classes=10, in_channels=3)
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
    return model.eval()


def images(count: int) -> Tensor:
    """Normalised images, float32 (count, 3, 32, 32)."""
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def calibrated(model: nn.Module, fusion: Fusion = Fusion.conv_bn_relu) -> Calibration:
    """`model` with the summaries of a few images."""
    return calibrate(capture(model, images(32), fusion), [images(32)])
