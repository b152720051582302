"""Which widths a network should have for what it may cost: measured, then solved, then measured again.

1. The network at every width in all tensors, recovered where that is asked for.
2. What one tensor does to the outputs while all others are in float. A weight comes, with the bias of its layer, from a
   network whose activations are in float: a recovery that sees quantized activations also spends the weights on what
   those lost, and such a weight would look worse than it is. The grid of an activation is that of step 1.
3. The assignment with the least sum of these (`quantization.allocation`), made and measured as a whole.
4. Damages do not add up, and more so for activations or for weights. So the damages of weights are counted half and
   twice, and on from what was best.

All is measured on images that recoveries do not see, without labels. Whole assignments are told from each other on more
of them than single tensors, for there are few assignments and many tensors.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.evaluation.budget import Budget
from quant_sweep.evaluation.tensor_damages import Damages, Widths, damage_and_changes
from quant_sweep.graph import QuantGraph
from quant_sweep.quantization.allocation import NetworkSize, bits_of, least_damage
from quant_sweep.quantization.scheme import FLOAT, Width
from quant_sweep.recovery import OnGrids

log = logging.getLogger(__name__)

Make = Callable[[Widths], OnGrids]
Choices = Mapping[str, tuple[Width, ...]]  # by tensor


@final
@dataclass(frozen=True)
class Candidate:
    """An assignment that was made and measured as a whole.

    Attributes:
        name: for people: `uniform 4`, `step 1`.
        widths: by tensor.
        damage: mean divergence of the outputs from the float network's, see `recovery.recover.damages`.
        changed: percent of the images that are given another class than in float; accuracy cannot fall by more.
        costs: see `NetworkSize.costs`.
    """

    name: str
    widths: Widths
    damage: float
    changed: float
    costs: Mapping[str, float]


@final
@dataclass(frozen=True)
class Allocation:
    """What the search found.

    Attributes:
        chosen: the best within the budget.
        candidates: all that was measured, in order.
        images: on how many images.
    """

    chosen: Candidate
    candidates: tuple[Candidate, ...]
    images: int


@final
@dataclass(frozen=True, eq=False)
class Search:
    """What is searched, and how its parts are made.

    Attributes:
        original: the float network.
        size: of it.
        groups: the tensors that share a width.
        choices: the widths that each tensor may have; a single one where it is settled.
        judges: inputs that no recovery sees, on which whole assignments are measured.
        make: the network at widths, recovered.
        damages: as `tensor_damages`, perhaps kept from an earlier time: of the networks whose weights have a width, and
            of those whose activations have it.
    """

    original: QuantGraph
    size: NetworkSize
    groups: Sequence[tuple[str, ...]]
    choices: Choices
    judges: Sequence[Tensor]
    make: Make
    damages: Callable[[Mapping[Width, OnGrids], Mapping[Width, OnGrids]], Damages]

    def run(self, budget: Budget, steps: int) -> Allocation:
        """Find the best assignment within a budget.

        Args:
            steps: how many assignments are made beside the uniform ones; from 1.

        Raises:
            InputError: found no assignment that keeps to the budget.
        """
        widths = sorted({w for choice in self.choices.values() for w in choice if w != FLOAT})
        states: dict[Width, OnGrids] = {w: self.make(self._uniform(w)) for w in widths}
        uniform = {w: self._measured(f"uniform {w}", self._uniform(w), states[w]) for w in widths}
        if budget.max_drop is not None:
            return self._cheapest(budget.max_drop, steps, uniform, states)
        caps = budget.caps(self.size, self.original)
        within = [one for one in uniform.values() if _fits(one, caps)]
        damages = self._alone(states)
        tried, by_factor = list[Candidate](), dict[float, float]()
        for step in range(1, steps + 1):
            factor = next_factor(by_factor)
            weighted = _times(damages, self.size.weights, factor)
            known = [one.widths for one in (*within, *tried)]
            found = least_damage(weighted, self.groups, self.size, caps, tried=known)
            if found is None:
                break
            tried.append(self._measured(f"step {step}", found, self.make(found)))
            by_factor[factor] = tried[-1].damage
        best = min((*within, *tried), key=lambda one: one.damage, default=None)
        if best is None:
            raise InputError(f"{budget}: found no assignment of widths that keeps to it; {self._least()}")
        return Allocation(best, (*uniform.values(), *tried), self._images)

    def _cheapest(
        self, most: float, steps: int, uniform: Mapping[int, Candidate], states: Mapping[Width, OnGrids]
    ) -> Allocation:
        """The least size and bit operations with which no more than `most` percent of the images change their class."""
        good = [w for w, one in uniform.items() if one.changed <= most]
        if not good:
            least = min(uniform.values(), key=lambda one: one.changed)
            raise InputError(f"budget.max_drop={most:g}: {least.name} bits changes {least.changed:.2g} %; allow more")
        best, tried = uniform[min(good)], list(uniform.values())
        damages = self._alone(states)
        low, high = 0.25, 1.0  # of the cost of the best uniform one
        for step in range(steps):
            share = (low * high) ** 0.5
            caps = {name: share * cost for name, cost in uniform[min(good)].costs.items() if name != "activation_bits"}
            found = least_damage(damages, self.groups, self.size, caps)
            if found is None:
                low = share
                continue
            tried.append(self._measured(f"step {step + 1}", found, self.make(found)))
            if tried[-1].changed <= most:
                best, high = tried[-1], share
            else:
                low = share
        return Allocation(best, tuple(tried), self._images)

    def _alone(self, states: Mapping[Width, OnGrids]) -> Damages:
        """What each tensor does while all others are in float."""
        weights = self.size.weights
        only_weights = {
            width: self.make({name: w if name in weights else FLOAT for name, w in self._uniform(width).items()})
            for width in states
        }
        return self.damages(only_weights, states)

    @property
    def _images(self) -> int:
        return sum(len(batch) for batch in self.judges)

    def _least(self) -> str:
        narrowest = {name: min(choice, key=bits_of) for name, choice in self.choices.items()}
        costs = self.size.costs(narrowest)
        return (
            f"with the fewest bits the weights take {costs['weight_bits'] / 8e6:.3g} MB and an image "
            f"{costs['bit_operations'] / 1e9:.3g}e9 bit operations"
        )

    def _uniform(self, width: Width) -> dict[str, Width]:
        return {name: width if width in choice else choice[0] for name, choice in self.choices.items()}

    def _measured(self, name: str, widths: Widths, state: OnGrids) -> Candidate:
        damage, changed = damage_and_changes(self.original, state, self.judges)
        log.info("%s: damage to the outputs %.3g, %.2f %% of the classes change", name, damage, changed)
        return Candidate(name, dict(widths), damage, changed, self.size.costs(widths))


def next_factor(measured: Mapping[float, float]) -> float:
    """By what the damages of weights are multiplied next: 1, then half or twice what was best, then nearer to it.

    Args:
        measured: the damage of the whole assignment, by factor.
    """
    if not measured:
        return 1.0
    best, ratio = min(measured, key=lambda factor: measured[factor]), 2.0
    while True:
        for factor in (best / ratio, best * ratio):
            if not any(math.isclose(factor, known) for known in measured):
                return factor
        ratio **= 0.5


def _times(damages: Damages, weights: Collection[str], factor: float) -> Damages:
    """Damages, those of weights multiplied."""
    return {
        name: {width: damage * (factor if name in weights else 1.0) for width, damage in by_width.items()}
        for name, by_width in damages.items()
    }


def _fits(candidate: Candidate, caps: Mapping[str, float]) -> bool:
    return all(candidate.costs[name] <= most * (1 + 1e-9) for name, most in caps.items())
