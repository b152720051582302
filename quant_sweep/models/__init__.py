"""Float models: one file per family of factories, all called with `num_classes` and `in_channels` by keyword."""

from quant_sweep.models.checkpoint import load_weights, read_checkpoint, write_checkpoint
from quant_sweep.models.cifar_resnet import resnet20, resnet32, resnet44, resnet56, resnet110
from quant_sweep.models.custom import from_callable
from quant_sweep.models.packed import packed, takes_packed
from quant_sweep.models.stem_resnet import resnet18, resnet34, resnet50
from quant_sweep.models.torchvision_model import from_torchvision

__all__ = [
    "from_callable",
    "from_torchvision",
    "load_weights",
    "packed",
    "read_checkpoint",
    "resnet18",
    "resnet20",
    "resnet32",
    "resnet34",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet110",
    "takes_packed",
    "write_checkpoint",
]
