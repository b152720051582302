"""Which tensors are quantized: the choice that a person makes."""

from __future__ import annotations

from enum import Enum


class Fusion(Enum):
    """Which quantizers exist; `quantizers.py` defines each."""

    none = "none"
    bn = "bn"
    conv_bn_relu = "conv_bn_relu"
