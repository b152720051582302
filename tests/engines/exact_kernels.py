"""Which weights oneDNN's integer kernels multiply exactly on this CPU: all, or those of at most 7 bits."""

import pytest

from quant_sweep.engines.onednn import why_not_exact

WEIGHT_BITS = 8 if why_not_exact(255, 128) is None else 7  # of the widest weights that are multiplied exactly
needs_int8 = pytest.mark.skipif(why_not_exact(255, 64) is not None, reason="needs exact integer kernels")
