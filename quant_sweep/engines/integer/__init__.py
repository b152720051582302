"""The integer-only engine: Jacob et al. 2018, section 2, to the letter, for exactness and not for speed.

`layers` and `elementwise` hold the arithmetic, `windows` what pooling sums over, `kernels` picks, `engine` runs it.
"""

from quant_sweep.engines.integer.engine import Integer

__all__ = ["Integer"]
