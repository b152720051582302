"""Which weights oneDNN's integer kernels multiply exactly on this CPU: all, or those of at most 7 bits.

Without VNNI x86 adds two products of uint8 and int8 in 16 bits. 2 * 255 * 64 fits, so that with weights of 7 bits
`Int8` can be tested there too, although it refuses such CPUs.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
import torch.nn.functional as F

from quant_sweep.engines import int8
from quant_sweep.engines.onednn import why_not_exact


def _multiplies(weight: int) -> bool:
    """Whether the largest codes times such weights have the exact sums."""
    x, weights = torch.full((1, 64, 4, 4), 255, dtype=torch.uint8), torch.full((64, 64, 3, 3), weight, dtype=torch.int8)
    scales, zeros, geometry = torch.ones(64), torch.zeros(64, dtype=torch.int32), ([1, 1], [1, 1], [1, 1], 1)
    ops = torch.ops.onednn
    try:
        packed = ops.qconv_prepack(weights, scales, 1.0, 0, *geometry, None)
        x = x.contiguous(memory_format=torch.channels_last)
        onto = (scales, zeros, None, *geometry, 1.0, 0, torch.float32, "none", [], "")
        sums = ops.qconv_pointwise(x, 1.0, 0, packed, *onto)
    except (RuntimeError, AttributeError):
        return False
    return torch.equal(sums.double(), F.conv2d(x.double(), weights.double(), padding=1))


REFUSED = why_not_exact() is not None
WEIGHT_BITS = 7 if REFUSED else 8  # of the widest weights that are multiplied exactly
SKIPPED = REFUSED and not (_multiplies(-64) and _multiplies(63))


@contextmanager
def int8_builds() -> Iterator[None]:
    """`Int8` builds networks here, whatever the CPU; their weights must have at most WEIGHT_BITS."""
    if SKIPPED:
        pytest.skip("needs exact integer kernels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(int8, "why_not_exact", lambda: None)
        yield
