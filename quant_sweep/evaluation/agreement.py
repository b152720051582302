"""How far an integer engine and the float simulation of the same grids part.

A value that lies within float rounding of a tie may round to either side, and whatever is computed from it then differs
too. So each tensor is compared where both engines had the same inputs: the simulation computes it from the integer
engine's own codes, layer by layer. What such flips do to the answers is measured apart, on the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.graph import FakeQuantize, QuantGraph, insert_at_quantizers, weights_on_grid


@dataclass(frozen=True, eq=False)
class EngineAgreement:
    """What the comparison found.

    Attributes:
        images: how many classes were compared.
        same_class: percent of images to which both engines give the same class.
        lsb: largest difference of codes, by the name of the tensor, in the order in which they are computed.
        compared_codes: how many were compared.
        differing: share of them that differ.
    """

    images: int
    same_class: float
    lsb: Mapping[str, int]
    compared_codes: int
    differing: float

    @property
    def largest_lsb(self) -> int:
        """Of any tensor."""
        return max(self.lsb.values(), default=0)

    @property
    def first_difference(self) -> str | None:
        """The first tensor whose codes differ; None if none do."""
        return next((name for name, largest in self.lsb.items() if largest > 0), None)


@torch.no_grad()
def compare_with_simulation(
    network: NetworkOfCodes, graph: QuantGraph, qparams: Mapping[str, QParams], images: Tensor, codes_of: int
) -> EngineAgreement:
    """Hold a network of integers against `Simulate` on some images.

    Args:
        network: built from `graph` and `qparams`.
        images: normalised, float32 (n, channels, height, width), on the CPU; n >= 1. Their classes are compared.
        codes_of: and of so many of them each code, layer by layer; >= 1.
    """
    codes = network.codes(images[:codes_of])
    compared = sum(own.numel() for own in codes.values())
    comparisons = {name: _CompareThenReplace(qparams[name], codes, name) for name in list(codes)}
    simulation = insert_at_quantizers(graph, comparisons, weights_on_grid(graph, qparams))
    simulation(images[:codes_of])  # uses all codes up
    classes, simulated = (run(images).argmax(dim=1) for run in (network, simulation))
    return EngineAgreement(
        images=len(images),
        same_class=100.0 * (classes == simulated).to(torch.float64).mean().item(),
        lsb={name: comparison.largest for name, comparison in comparisons.items()},
        compared_codes=compared,
        differing=sum(comparison.differing for comparison in comparisons.values()) / max(compared, 1),
    )


class _CompareThenReplace:
    """Compares the codes of what comes with given ones, which it takes out of `codes`, and passes the given ones on.

    Once they are gone it is the simulation itself.
    """

    def __init__(self, grid: QParams, codes: dict[str, Tensor], name: str) -> None:
        self.codes, self.name = codes, name
        self.simulate, self.zero_point = FakeQuantize(grid), int(grid.zero_point)
        self.largest, self.differing = 0, 0

    def __call__(self, x: Tensor) -> Tensor:
        if self.name not in self.codes:
            return self.simulate(x)  # type: ignore[no-any-return]
        own = self.codes.pop(self.name).to(torch.float32).sub_(self.zero_point)
        difference = self.simulate.codes(x).sub_(own)
        self.largest, self.differing = int(max(map(abs, difference.aminmax()))), int(difference.count_nonzero())
        return own.mul_(self.simulate.scale)
