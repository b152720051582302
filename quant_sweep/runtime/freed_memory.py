"""Memory that tensors no longer need, and the allocator keeps.

glibc serves tensors below 32 MB from its heap and does not hand back what was freed there, unless it is asked: a walk
over all layers of a network would keep the memory of the largest ones to its end.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Hand freed memory back to the system; some milliseconds. Does nothing where the C library is not glibc."""
    trim = _malloc_trim()
    if trim is not None:
        trim(0)


@cache
def _malloc_trim() -> Callable[[int], int] | None:
    return getattr(ctypes.CDLL(None), "malloc_trim", None) if sys.platform == "linux" else None
