"""Strictly alternating timing: everybody takes a turn in every round, so a slow minute of a shared machine hits all.

A comparison is the ratio within a round; of the rounds it gives the smallest, the median and the largest.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

Seconds = dict[str, list[float]]


def alternate(contestants: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> Seconds:
    """Seconds of each contestant in each round; every round begins with another.

    Args:
        warm_up: give everybody one turn before that does not count; needless where a turn takes minutes.
    """
    names = list(contestants)
    for name in names if warm_up else []:
        contestants[name]()
    seconds: Seconds = {name: [] for name in names}
    for turn in range(rounds):
        for i in range(len(names)):
            name = names[(turn + i) % len(names)]
            seconds[name].append(timed(contestants[name]))
    return seconds


def timed(function: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    function()
    return time.perf_counter() - began


def spread(values: list[float]) -> dict[str, float]:
    """Smallest, median and largest."""
    return {"min": min(values), "median": statistics.median(values), "max": max(values)}


def ratios(seconds: Seconds, over: str, under: str) -> dict[str, float]:
    """How many times as long `over` takes as `under`, round by round."""
    return spread([a / b for a, b in zip(seconds[over], seconds[under], strict=True)])
