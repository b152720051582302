"""How far an integer engine and the float simulation of the same grids part.

A value that lies within rounding of a tie may go to either side, and whatever is computed from it then differs too. So
each tensor is compared where both engines had the same inputs: the simulation computes it from the integer engine's own
codes, layer by layer. How far from a tie the simulation's value lies, where the codes differ, says whether rounding
explains it. What such flips do to the answers is measured apart, on the whole network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.data import DataSet
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.evaluation.metrics.signals import rows
from quant_sweep.graph import FakeQuantize, QuantGraph, insert_at_quantizers, weights_on_grid

# How many images `compare_some_images` takes the classes of; and it compares each code of as many images as give about
# this many codes, so that a point of a large network does not spend seconds on it.
_FEWEST_IMAGES, _MOST_IMAGES, _COMPARED_CODES = 8, 32, 2**23
# How far the simulation's value may be from the exact one, in steps: float32 sums of products. At most 0.0003 of an
# 8-bit step in ResNets, VGG-11, MobileNet-V2 and a ViT.
_SIMULATION_ROUNDS = 2.0**-10


@dataclass(frozen=True, eq=False)
class EngineAgreement:
    """What the comparison found.

    Attributes:
        images: how many classes were compared.
        same_class: percent of images to which both engines give the same class, or nearly the same numbers.
        lsb: largest difference of codes, by the name of the tensor, in the order in which they are computed.
        shares: share of codes that differ, by the name of the tensor.
        from_tie: how far from a tie the simulation's values lie where the codes differ, at most, in steps of the grid,
            by the name of the tensor.
        compared_codes: how many codes were compared.
        differing: share of all of them that differ.
    """

    images: int
    same_class: float
    lsb: Mapping[str, int]
    shares: Mapping[str, float]
    from_tie: Mapping[str, float]
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

    def disagreement(self, rounds: float) -> str | None:
        """Why the engine is not to be believed, naming the first tensor that says so; None if it is.

        Rounding explains a code that differs where the simulation's value lies near the tie between both.

        Args:
            rounds: how far from its exact value the engine may have what it rounds, in steps of a grid.
        """
        most = rounds + _SIMULATION_ROUNDS
        for name, from_tie in self.from_tie.items():
            if not from_tie <= most:  # or no number
                return (
                    f"{name} differs from simulate in {100 * self.shares[name]:.3g} % of its codes, by "
                    f"{0.5 + from_tie:.3g} steps, where rounding explains {0.5 + most:.3g}"
                )
        return None


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
    return EngineAgreement(
        images=len(images),
        same_class=100.0 * _same(network(images), simulation(images)).to(torch.float64).mean().item(),
        lsb={name: comparison.largest for name, comparison in comparisons.items()},
        shares={name: comparison.differing / max(comparison.compared, 1) for name, comparison in comparisons.items()},
        from_tie={name: comparison.from_tie for name, comparison in comparisons.items()},
        compared_codes=compared,
        differing=sum(comparison.differing for comparison in comparisons.values()) / max(compared, 1),
    )


def compare_some_images(
    network: NetworkOfCodes, graph: QuantGraph, qparams: Mapping[str, QParams], data: DataSet
) -> EngineAgreement:
    """`compare_with_simulation` on the first test images; the larger the network, the fewer of them."""
    images = data.normalize(data.test.images[:_MOST_IMAGES])
    codes_an_image = sum(codes.numel() for codes in network.codes(images[:1]).values())
    codes_of = max(_COMPARED_CODES // max(codes_an_image, 1), 1)
    return compare_with_simulation(network, graph, qparams, images[: max(codes_of, _FEWEST_IMAGES)], codes_of)


def _same(outputs: Any, simulated: Any) -> Tensor:
    """Whether two networks say the same of each image, bool (n,): the same class, where one tensor tells classes apart;
    else all that they return within a hundredth."""
    leaves, others = pytree.tree_leaves(outputs), pytree.tree_leaves(simulated)
    if len(leaves) == 1 and leaves[0].dim() == 2 and leaves[0].shape[1] > 1:
        return leaves[0].argmax(dim=1) == others[0].argmax(dim=1)  # type: ignore[no-any-return]
    pairs = [(rows(a), rows(b)) for a, b in zip(leaves, others, strict=True)]
    return torch.stack([(a - b).norm(dim=1) <= 0.01 * b.norm(dim=1) for a, b in pairs]).all(dim=0)


class _CompareThenReplace:
    """Compares the codes of what comes with given ones, which it takes out of `codes`, and passes the given ones on.

    Once they are gone it is the simulation itself.
    """

    def __init__(self, grid: QParams, codes: dict[str, Tensor], name: str) -> None:
        self.codes, self.name = codes, name
        self.simulate, self.zero_point = FakeQuantize(grid), int(grid.zero_point)
        self.largest, self.differing, self.compared, self.from_tie = 0, 0, 0, 0.0

    def __call__(self, x: Tensor) -> Tensor:
        if self.name not in self.codes:
            return self.simulate(x)  # type: ignore[no-any-return]
        own = self.codes.pop(self.name).to(torch.float32).sub_(self.zero_point)
        difference = self.simulate.codes(x).sub_(own)
        self.largest, self.differing = int(max(map(abs, difference.aminmax()))), int(difference.count_nonzero())
        if self.differing:
            distance = self.simulate.steps(x).sub_(own).abs_().amax().item()
            self.from_tie = max(distance - 0.5, 0.0)
        self.compared = own.numel()
        return own.mul_(self.simulate.scale)
