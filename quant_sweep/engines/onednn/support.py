"""Whether this machine's integer kernels compute exactly."""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F


def why_not_exact() -> str | None:
    """Why this machine's integer kernels cannot be used; None if they compute exactly.

    Without VNNI x86 adds pairs of uint8 x int8 products in 16 bits and saturates. The flag says what the CPU has, a
    trial with the largest products what oneDNN makes of it.
    """
    if platform.machine() in ("x86_64", "AMD64") and not torch.cpu._is_vnni_supported():
        return "this CPU has no VNNI, so that products of uint8 and int8 saturate at 16 bits"
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qconv2d_pointwise"):
        return "this build of torch has no oneDNN integer kernels"
    try:
        exact = all(_trial(channels, groups) for channels, groups in ((64, 1), (64, 64)))
    except RuntimeError as error:
        return f"oneDNN's integer kernels fail on this CPU ({str(error).strip().splitlines()[0]})"
    return None if exact else "oneDNN's products of uint8 and int8 saturate on this CPU"


def _trial(channels: int, groups: int) -> bool:
    """Whether a convolution of the largest codes with the largest weights has the exact sums."""
    ops, ones, zeros = torch.ops.onednn, torch.ones(channels), torch.zeros(channels, dtype=torch.int32)
    x = torch.full((1, channels, 4, 4), 255, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    weight = torch.full((channels, channels // groups, 3, 3), 127, dtype=torch.int8)
    geometry = ([1, 1], [1, 1], [1, 1], groups)
    packed = ops.qconv_prepack(weight, ones, 1.0, 0, *geometry, None)
    sums = ops.qconv_pointwise(x, 1.0, 0, packed, ones, zeros, None, *geometry, 1.0, 0, torch.float32, "none", [], "")
    exact = F.conv2d(x.double(), weight.double(), padding=1, groups=groups)
    return torch.equal(sums.double(), exact)
