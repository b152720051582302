"""Float32 that is float32: GPUs would else multiply convolutions in TF32, with the 10 bits of mantissa of a half."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Inside, and in a function decorated with it, GPUs give what CPUs give, to float rounding. No effect on CPUs."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, benchmark_limit=None, deterministic=True, allow_tf32=False
    ):
        yield
