"""Whether this machine's integer kernels compute exactly."""

from __future__ import annotations

import platform

import torch
import torch.nn.functional as F

_INT16 = 2**15 - 1


def why_not_exact(code: int, weight: int) -> str | None:
    """Why this machine's integer kernels cannot be used; None if they compute exactly.

    Without VNNI x86 adds pairs of uint8 x int8 products in 16 bits and saturates. The flag says what the CPU has, a
    trial with the largest products what oneDNN makes of it.

    Args:
        code, weight: the largest product in a network is of these magnitudes, 0 to 255 and 0 to 128.
    """
    has_vnni = platform.machine() not in ("x86_64", "AMD64") or torch.cpu._is_vnni_supported()
    if not has_vnni and 2 * code * weight > _INT16:
        return (
            "this CPU has no VNNI: it adds products of uint8 and int8 in pairs, in 16 bits, which those of codes up to "
            f"{code} and weights up to {weight} overflow (weights of 7 bits do not)"
        )
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.onednn, "qconv2d_pointwise"):
        return "this build of torch has no oneDNN integer kernels"
    try:
        exact = all(_trial(channels, groups, code, -weight) for channels, groups in ((64, 1), (64, 64)))
    except RuntimeError as error:
        return f"oneDNN's integer kernels fail on this CPU ({str(error).strip().splitlines()[0]})"
    return None if exact else "oneDNN's products of uint8 and int8 saturate on this CPU"


def _trial(channels: int, groups: int, code: int, value: int) -> bool:
    """Whether a convolution of such codes with such weights has the exact sums."""
    ops, ones, zeros = torch.ops.onednn, torch.ones(channels), torch.zeros(channels, dtype=torch.int32)
    x = torch.full((1, channels, 4, 4), code, dtype=torch.uint8).contiguous(memory_format=torch.channels_last)
    weight = torch.full((channels, channels // groups, 3, 3), value, dtype=torch.int8)
    geometry = ([1, 1], [1, 1], [1, 1], groups)
    packed = ops.qconv_prepack(weight, ones, 1.0, 0, *geometry, None)
    sums = ops.qconv_pointwise(x, 1.0, 0, packed, ones, zeros, None, *geometry, 1.0, 0, torch.float32, "none", [], "")
    exact = F.conv2d(x.double(), weight.double(), padding=1, groups=groups)
    return torch.equal(sums.double(), exact)
