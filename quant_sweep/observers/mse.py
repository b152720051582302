"""The range with the least expected squared error, searched on both ends at once.

A coarse search shrinks lo and hi independently by powers of 2**(1/4), down to 1/53 of what was seen (a long tail may
want that at 3 bits); finer ones look around the best so far. Each candidate is judged by the grid that would really
be laid over it, with its rounded zero-point; from 8 bits on the coarse search takes its steps as fine, for it ranks
hundreds of ranges. Leaves out: other norms than L2, and the effect on the network's output.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.histograms.expected_error import expected_squared_error, high_resolution_error
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers.base import Observer

_MANY_STEPS = 254  # 8 bits, narrow range
_COARSE = -torch.arange(24, dtype=torch.float64) / 4  # log2 of what is kept
# Around the best so far: out to the neighbouring coarse candidates, then ever closer.
_REFINEMENTS = tuple(torch.linspace(-1.0, 1.0, 9, dtype=torch.float64) * step for step in (1 / 4, 1 / 16, 1 / 64))


@final
@dataclass(frozen=True)
class MSE(Observer):
    """Least expected L2 quantization error over the ranges [a * min, b * max], 0 < a, b <= 1; a = b if symmetric."""

    def range(self, summary: Summary, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        histogram = summary.total
        seen = torch.stack([histogram.lo.clamp(max=0.0), histogram.hi.clamp(min=0.0)], dim=1).to(torch.float64)
        if spec.symmetric:
            seen = seen.abs().amax(dim=1, keepdim=True) * torch.tensor([-1.0, 1.0])
        best = seen[:, None, :]  # (channels, 1, lo and hi)
        coarse_error = high_resolution_error if spec.steps >= _MANY_STEPS else expected_squared_error
        judged = ((_COARSE, coarse_error), *((steps, expected_squared_error) for steps in _REFINEMENTS))
        for log2_factors, error_of in judged:
            factors = 2.0 ** _both_ends(log2_factors, seen, spec.symmetric)  # (candidates, lo and hi)
            candidates = torch.minimum((best * factors).abs(), seen[:, None, :].abs()) * seen[:, None, :].sign()
            error = error_of(histogram, candidates[..., 0], candidates[..., 1], spec)
            winner = error.argmin(dim=1)[:, None, None].expand(-1, 1, 2)
            best = candidates.gather(1, winner)
        lo, hi = best[:, 0].to(torch.float32).unbind(dim=1)
        return lo, hi


def _both_ends(steps: Tensor, seen: Tensor, symmetric: bool) -> Tensor:
    """Pairs of steps for lo and hi, (candidates, 2): one step for both if symmetric, none for an end that is 0."""
    if symmetric:
        return steps[:, None].expand(-1, 2)
    none = steps.new_zeros(1)
    lows, highs = (steps if bool((end != 0).any()) else none for end in seen.unbind(dim=1))
    return torch.cartesian_prod(lows, highs)
