"""An activation on its grid, in float32: what the simulation does at every quantizer."""

from __future__ import annotations

from typing import final

from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams


@final
class FakeQuantize(nn.Module):
    """The nearest value of a per-tensor grid, in real units."""

    def __init__(self, qparams: QParams) -> None:
        super().__init__()
        spec, zero_point = qparams.spec, int(qparams.zero_point)
        self.scale = float(qparams.scale)
        self.lowest, self.highest = spec.qmin - zero_point, spec.qmax - zero_point  # codes, counted from that of 0.0

    def steps(self, x: Tensor) -> Tensor:
        """How many steps above 0.0, within the grid and before rounding: float32, shaped like x."""
        return x.div(self.scale).clamp_(self.lowest, self.highest)

    def codes(self, x: Tensor) -> Tensor:
        """Codes, counted from that of 0.0: float32, shaped like x."""
        return self.steps(x).round_()

    def forward(self, x: Tensor) -> Tensor:
        return self.codes(x).mul_(self.scale)
