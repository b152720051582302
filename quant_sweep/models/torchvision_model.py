"""Any classifier of `torchvision.models` by its name, with random or with torchvision's own pretrained weights.

Leaves out: detection, segmentation and video models; auxiliary heads (googlenet, inception_v3), which only serve
training and are dropped; other than 3 input channels.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import WeightsEnum

from quant_sweep.errors import InputError

__all__ = ["from_torchvision"]

AUXILIARY_HEADS = ("googlenet", "inception_v3")


def from_torchvision(num_classes: int, in_channels: int, arch: str, weights: str | None = None) -> nn.Module:
    """Build `torchvision.models.<arch>`.

    Args:
        num_classes: classes; with `weights` it must be the number they were trained for (1000 for ImageNet).
        in_channels: must be 3.
        arch: a name such as mobilenet_v2.
        weights: None for random weights, else a member of the architecture's weights enum, such as DEFAULT.

    Raises:
        InputError: unknown `arch` or `weights`, numbers that do not fit, or a download that fails.
    """
    names = torchvision.models.list_models(module=torchvision.models)
    if arch not in names:
        near = get_close_matches(str(arch), names, n=4) or names
        raise InputError(f"model.arch={arch}: not a classifier of torchvision; near: {', '.join(near)}")
    if in_channels != 3:
        raise InputError(f"model.arch={arch}: takes 3 channels, the images have {in_channels}; choose other data=")
    heads: dict[str, Any] = {"aux_logits": False} if arch in AUXILIARY_HEADS else {}
    if weights is None:
        if arch in AUXILIARY_HEADS:
            heads["init_weights"] = True  # what torchvision does anyway, with a warning
        model: nn.Module = torchvision.models.get_model(arch, weights=None, num_classes=num_classes, **heads)
        return model
    return _pretrained(arch, _member(arch, weights, num_classes), heads)


def _member(arch: str, weights: str, num_classes: int) -> WeightsEnum:
    enum = torchvision.models.get_model_weights(arch)
    if weights not in enum.__members__:
        raise InputError(f"model.weights={weights}: {arch} has {', '.join(enum.__members__) or 'none'}, or null")
    member: WeightsEnum = enum[weights]
    classes = len(member.meta["categories"])
    if classes != num_classes:
        raise InputError(
            f"model.weights={weights}: trained for {classes} classes, the data has {num_classes}; "
            "choose data= with these classes, or model.weights=null and model.checkpoint=PATH"
        )
    return member


def _pretrained(arch: str, member: WeightsEnum, heads: dict[str, Any]) -> nn.Module:
    try:
        model: nn.Module = torchvision.models.get_model(arch, weights=member, **heads)
    except (OSError, RuntimeError) as error:  # no network; a download that is cut short fails its hash
        place = Path(torch.hub.get_dir()) / "checkpoints" / Path(member.url).name
        raise InputError(
            f"model.weights={member.name}: cannot be loaded ({' '.join(str(error).split())}); fetch {member.url} "
            f"elsewhere and place it at {place}, or give model.weights=null and model.checkpoint=PATH"
        ) from error
    return model
