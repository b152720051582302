"""Steps of a lowered network on oneDNN's integer kernels, through `torch.ops.onednn`.

`placed` says how codes are stored, `convolution`, `layers` and `elementwise` compute on them, `moves` on whatever else,
and `kernel_of` picks. Leaves out: weights with a zero-point, per-channel activations, accumulators that could overflow
32 bits.
"""

from quant_sweep.engines.onednn.kernels import kernel_of
from quant_sweep.engines.onednn.placed import Placed
from quant_sweep.engines.onednn.support import why_not_exact

__all__ = ["Placed", "kernel_of", "why_not_exact"]
