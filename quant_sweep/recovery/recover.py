"""The stage: recoveries one after another, each kept only if images that it did not see are the better for it.

A part of the inputs is kept out of the recovery. Before and after each method the quantized network's outputs for
them are held against those of the float network; a method that makes them worse is left out of the result. The
error on the inputs that were solved for says nothing: with few of them it vanishes while that of others grows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.engines import Simulate
from quant_sweep.errors import InputError
from quant_sweep.graph import Network, QuantGraph, weights_on_grid
from quant_sweep.recovery.base import Inputs, Learner, LearningTask, OnGrids, Recovery
from quant_sweep.recovery.divergence import divergence
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.threads import Workers

log = logging.getLogger(__name__)

HELD_OUT = 8  # of so many inputs the last is kept out


@final
@dataclass(frozen=True)
class Step:
    """What one recovery did.

    Attributes:
        before, after: damage to the outputs for the inputs kept out, see `damages`.
        kept: whether its result was taken.
        seconds: CPU time of the process.
    """

    before: float
    after: float
    kept: bool
    seconds: float


@final
@dataclass(frozen=True, eq=False)
class Recovered:
    """A network after recovery.

    Attributes:
        quantized: weights beside their grids are nearest to the codes that count, as a later recovery wants them.
        steps: by the recovery's name, in the order in which they were done.
    """

    quantized: OnGrids
    steps: Mapping[str, Step]

    def on_grids(self) -> OnGrids:
        """The network with its weights on their grids: what engines compute."""
        graph, qparams = self.quantized.graph, self.quantized.qparams
        return OnGrids(replace(graph, graph=weights_on_grid(graph, qparams)), qparams)


def recover(
    original: QuantGraph,
    quantized: OnGrids,
    batches: Iterable[Tensor],
    recoveries: Mapping[str, Recovery],
    more: Inputs | None = None,
) -> Recovered:
    """Do all recoveries in their order.

    Args:
        original: the float network; it is not changed.
        quantized: the same on grids.
        batches: inputs, float32 (n, ...) each, on the device to use; every 8th input is kept out.
        recoveries: by name.
        more: inputs for those that learn, in place of `batches`.

    Raises:
        InputError: there are fewer than 8 inputs, or a method cannot work on the network.
    """
    result = Recovered(quantized, {})
    seen, kept_out = split_off(batches)
    for name, method in recoveries.items():
        task = None if more is None else LearningTask(more)
        result = recover_once(original, result, (seen, kept_out), name, method, task)
        original = method.same_network(original) if result.steps[name].kept else original
    return result


def recover_once(
    original: QuantGraph,
    before: Recovered,
    batches: tuple[Sequence[Tensor], Sequence[Tensor]],
    name: str,
    method: Recovery,
    task: LearningTask | None = None,
) -> Recovered:
    """One recovery more.

    Args:
        batches: what the method sees, and what it is judged on, as `split_off` parts them.
        task: what it sees in place of these, if it learns.
    """
    seen, kept_out = batches
    began = time.process_time()
    if task is not None and isinstance(method, Learner):
        after = method.learn(original, before.quantized, task)
    else:
        after = method.recover(original, before.quantized, seen)
    seconds = time.process_time() - began
    was, now = damages(original, (before.quantized, after), kept_out)
    kept = now <= was  # false for NaN
    step = Step(was, now, kept, seconds)
    word = "kept" if kept else "left out, it makes images that it did not see worse"
    log.info("recovery %s: damage to the outputs %.3g -> %.3g (%s), %.1f CPU s", name, was, now, word, seconds)
    return Recovered(after if kept else before.quantized, {**before.steps, name: step})


def split_off(batches: Iterable[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Every 8th input, counted over all batches, and the others, batch by batch.

    Returns:
        the others; those kept out.

    Raises:
        InputError: there are fewer than 8.
    """
    seen, kept_out, position = list[Tensor](), list[Tensor](), 0
    for batch in batches:
        out = is_kept_out(torch.arange(position, position + len(batch)))
        position += len(batch)
        for part, into in ((batch[~out.to(batch.device)], seen), (batch[out.to(batch.device)], kept_out)):
            if len(part):
                into.append(part)
    check_enough(position)
    return seen, kept_out


def is_kept_out(positions: Tensor) -> Tensor:
    """Which inputs, by their positions in the calibration, only judge; bool, shaped like positions."""
    return positions % HELD_OUT == HELD_OUT - 1


def check_enough(inputs: int) -> None:
    """Refuse a number of inputs of which none could be kept out.

    Raises:
        InputError: there are fewer than 8.
    """
    if inputs < HELD_OUT:
        raise InputError(
            f"calibration.images={inputs}: recovery keeps every {HELD_OUT}th image to judge itself; "
            f"allowed: {HELD_OUT} or more"
        )


@torch.no_grad()
@full_precision()
def damages(original: QuantGraph, states: Sequence[OnGrids], batches: Sequence[Tensor]) -> list[float]:
    """How far the outputs of quantized networks are from the float network's: `divergence`, summed over the outputs."""
    device = batches[0].device
    quantized = (Simulate().build(state.graph, state.qparams) for state in states)
    networks = [network.to(device) for network in (Network(original.graph), *quantized)]

    def of(batch: Tensor) -> list[float]:
        wanted, *found = (pytree.tree_leaves(network(batch)) for network in networks)
        return [len(batch) * apart(wanted, outputs) for outputs in found]

    images = sum(map(len, batches))
    return [sum(one) / images for one in zip(*Workers(device).map(of, batches), strict=True)]


def apart(wanted: Iterable[Any], found: Iterable[Any]) -> float:
    """The sum of `divergence` over the outputs of both networks, in float64."""
    return sum(float(divergence(y.double(), z.double())) for y, z in zip(wanted, found, strict=True))
