"""`adaround`: each weight is rounded up or down, as learned for the output of its layer; scales stay as they are.

With s the scale, codes are clamp(floor(w / s) + h(v)), h(v) = clamp(1.2 sigmoid(v) - 0.1, 0, 1). Adam minimises over v
the squared error of the layer's output, with what the quantized network reads and what the float network wrote, and

    strength * sum (1 - |2 h(v) - 1|^beta)        beta falling from 20 to 2, after a fifth of the steps without it

which leaves every h at 0 or 1. The error is a quadratic form of the weights, (w* - w) H (w* - w) with the moments of
`reconstruct`: a step costs the same for any number of images.

Source: Nagel et al. 2020, arXiv:2004.10568, without its ReLU in the error; fewer and larger steps.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import along_channels
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import QuantGraph
from quant_sweep.recovery.base import OnGrids, Recovery, check_positive, check_whole
from quant_sweep.recovery.moments import damped, fitted, moments_of
from quant_sweep.recovery.rows import rows_of_weight, weight_of_rows
from quant_sweep.recovery.walk import Layer, walk

_STRETCH, _BELOW = 1.2, 0.1  # of the sigmoid, so that 0 and 1 are reached
_BETA = (20.0, 2.0)
_WITHOUT = 0.2  # of the steps


@final
@dataclass(frozen=True)
class AdaRound(Recovery):
    """Up or down, learned layer by layer.

    Attributes:
        steps: of the optimizer, for each layer; from 1.
        rate: of Adam; above 0.
        strength: of the term that decides, against an error as a share of the output's variance; above 0.
        rows: outputs of each layer, drawn at random over all inputs; from 1.
        damp: as in `Reconstruct`.
        seed: of the draw of rows.

    Raises:
        InputError: a value is not allowed.
    """

    steps: int = 400
    rate: float = 0.1
    strength: float = 0.2
    rows: int = 16384
    damp: float = 0.01
    seed: int = 0

    def __post_init__(self) -> None:
        check_whole(self, steps=1, rows=1, seed=0)
        check_positive(self, "rate", "damp", "strength")

    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        generator = torch.Generator().manual_seed(self.seed)

        def choose(layer: Layer) -> tuple[Tensor, QParams]:
            return self._weight(layer, generator), layer.grid

        return walk(original, quantized, batches, choose)

    def _weight(self, layer: Layer, generator: torch.Generator) -> Tensor:
        spec, shape = layer.grid.spec, layer.original.shape
        h, c = moments_of(layer, self.rows, generator)
        w = rows_of_weight(layer.operation, layer.original).double()
        target = fitted(w, h, c, self.damp)
        scale = along_channels(layer.grid.scale, layer.original, spec.channel_axis).expand(shape)
        s = rows_of_weight(layer.operation, scale.contiguous()).double()
        codes = rounded_up_or_down(w, target, damped(h, self.damp), s, (spec.qmin, spec.qmax), self)
        return weight_of_rows(layer.operation, codes * s, shape).to(layer.original.dtype)


def rounded_up_or_down(
    w: Tensor, target: Tensor, h: Tensor, scale: Tensor, ends: tuple[int, int], settings: AdaRound
) -> Tensor:
    """The codes that were learned.

    Args:
        w: float64 (groups, channels, k); each code is next to w / scale, below or above.
        target: the weights whose output is wanted, shaped like w.
        h: (groups, k, k), positive definite.
        scale: shaped like w.
        ends: lowest and highest code.

    Returns:
        float64, whole numbers shaped like w.
    """
    below = (w / scale).floor()
    share = (w / scale - below + _BELOW) / _STRETCH  # from 1 / 12 to below 11 / 12
    size = ((target @ h) * target).sum() / w.numel()  # the error is told as a share of this, a weight
    h, target, below, s = (t.float() for t in (h / size.clamp(min=1e-30), target, below, scale))
    v = share.logit().float().requires_grad_()
    optimizer = torch.optim.Adam([v], lr=settings.rate)
    with torch.enable_grad():
        for step in range(settings.steps):
            up = (torch.sigmoid(v) * _STRETCH - _BELOW).clamp(0, 1)
            error = (below + up).clamp(*ends) * s - target
            loss = ((error @ h) * error).sum()
            beta = _beta(step / settings.steps)
            if beta is not None:
                loss = loss + settings.strength * (1 - (2 * up - 1).abs().pow(beta)).sum()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return (below.double() + (v.detach() >= 0).double()).clamp(*ends)


def _beta(done: float) -> float | None:
    """The exponent after a share of the steps; None while nothing is to be decided."""
    if done < _WITHOUT:
        return None
    high, low = _BETA
    return low + 0.5 * (high - low) * (1 + math.cos(math.pi * (done - _WITHOUT) / (1 - _WITHOUT)))
