"""Which widths a network should have for what it may cost: measured, then solved, then measured again.

1. The network at every width in all tensors, recovered where that is asked for.
2. What one tensor does to the outputs while all others are in float: with the weight, the bias and the grid that it has
   in the network of each width.
3. The assignment with the least sum of these (`quantization.allocation`), made and measured as a whole.
4. From the best so far: what the outputs lose or win when one tensor gets another width there, and the best assignment
   that differs in a sixth of the tensors, then in fewer. Damages do not add up, and after a recovery what one tensor
   alone does in an unrecovered network ranks wrongly; so they are measured where the search stands.

All is measured on the images that recoveries do not see, without labels.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.evaluation.budget import Budget
from quant_sweep.evaluation.tensor_damages import Damages, Widths, damage_and_changes
from quant_sweep.graph import QuantGraph
from quant_sweep.quantization.allocation import NetworkSize, least_damage
from quant_sweep.quantization.scheme import FLOAT, Width
from quant_sweep.recovery import OnGrids

log = logging.getLogger(__name__)

Make = Callable[[Widths], OnGrids]


@final
@dataclass(frozen=True)
class Candidate:
    """An assignment that was made and measured as a whole.

    Attributes:
        name: for people: `uniform 4`, `step 1`.
        widths: by tensor.
        damage: mean divergence of the outputs from the float network's, see `recovery.recover.damage`.
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
        kept_out: inputs that no recovery sees.
        make: the network at widths, recovered.
        damages: as `tensor_damages`, perhaps kept from an earlier time: of an assignment, its network, and the
            networks at every single width.
    """

    original: QuantGraph
    size: NetworkSize
    groups: Sequence[tuple[str, ...]]
    choices: Mapping[str, tuple[Width, ...]]
    kept_out: Sequence[Tensor]
    make: Make
    damages: Callable[[Widths, OnGrids, Mapping[Width, OnGrids]], Damages]

    def run(self, budget: Budget, steps: int) -> Allocation:
        """Find the best assignment within a budget.

        Args:
            steps: how many assignments are made beside the uniform ones; from 1.

        Raises:
            InputError: no assignment keeps to the budget.
        """
        widths = sorted({w for choice in self.choices.values() for w in choice if w != FLOAT})
        states: dict[Width, OnGrids] = {w: self.make(self._uniform(w)) for w in widths}
        uniform = {w: self._measured(f"uniform {w}", self._uniform(w), states[w]) for w in widths}
        if budget.max_drop is not None:
            return self._cheapest(budget.max_drop, steps, uniform, states)
        caps = budget.caps(self.size, self.original)
        tried = [one for one in uniform.values() if _fits(one, caps)]
        damages, already = self._alone(states), len(tried)
        best, near = min(tried, key=lambda one: one.damage, default=None), None
        made = {best.name: states[max(w for w in widths if uniform[w] is best)]} if best else {}
        measured = ""
        for step in range(steps):
            if best is not None and step > 0:
                near = (best.widths, reach_of(step, len(self.groups)))
                if measured != best.name:
                    damages, measured = self.damages(best.widths, made[best.name], states), best.name
            found = least_damage(damages, self.groups, self.size, caps, near=near, tried=[one.widths for one in tried])
            if found is None:
                break
            name = f"step {step + 1}"
            made[name] = self.make(found)
            tried.append(self._measured(name, found, made[name]))
            best = min((one for one in (best, tried[-1]) if one is not None), key=lambda one: one.damage)
        if best is None:
            raise InputError(f"{budget}: no assignment of widths keeps to it; {self._least()}")
        return Allocation(best, (*uniform.values(), *tried[already:]), self._images)

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
        return self.damages(dict.fromkeys(self.choices, FLOAT), OnGrids(self.original, {}), states)

    @property
    def _images(self) -> int:
        return sum(len(batch) for batch in self.kept_out)

    def _least(self) -> str:
        narrowest = {name: min(choice, key=lambda w: 32 if w == FLOAT else w) for name, choice in self.choices.items()}
        costs = self.size.costs(narrowest)
        return (
            f"with the fewest bits the weights take {costs['weight_bits'] / 8e6:.3g} MB and an image "
            f"{costs['bit_operations'] / 1e9:.3g}e9 bit operations"
        )

    def _uniform(self, width: Width) -> dict[str, Width]:
        return {name: width if width in choice else choice[0] for name, choice in self.choices.items()}

    def _measured(self, name: str, widths: Widths, state: OnGrids) -> Candidate:
        damage, changed = damage_and_changes(self.original, state, self.kept_out)
        log.info("%s: damage to the outputs %.3g, %.2f %% of the classes change", name, damage, changed)
        return Candidate(name, dict(widths), damage, changed, self.size.costs(widths))


def reach_of(step: int, groups: int) -> int:
    """In how many of the groups an assignment may differ from the best so far: a sixth at step 1, then half as many."""
    return max(groups // (3 << step), 1)


def _fits(candidate: Candidate, caps: Mapping[str, float]) -> bool:
    return all(candidate.costs[name] <= most * (1 + 1e-9) for name, most in caps.items())
