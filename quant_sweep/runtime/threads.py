"""Threads that share out the images, where torch would share out each layer.

A layer of a few images is little work: the threads that share it wait for each other at the end of each of a network's
many layers. Threads that take images of their own wait once, at the end.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import Barrier, Lock
from typing import Any, TypeVar, final

import torch
from torch import Tensor

# Fewer images are not worth the calls that a network makes for them.
FEWEST_IMAGES = 16
_Part = TypeVar("_Part")
_Result = TypeVar("_Result")


@final
class Workers:
    """As many threads as torch computes with, each of which computes alone. They start when they are first needed.

    Args:
        device: where they compute; beside a GPU there is one.

    Attributes:
        turn: to be held while something is made that all threads use.
    """

    def __init__(self, device: torch.device | None = None) -> None:
        self._pool: ThreadPoolExecutor | None = None
        self._device = device
        self.turn = Lock()

    def __deepcopy__(self, memo: dict[int, Any]) -> Workers:
        return Workers(self._device)

    @property
    def threads(self) -> int:
        """How many there are."""
        return torch.get_num_threads() if self._device is None or self._device.type == "cpu" else 1

    def map(self, function: Callable[[_Part], _Result], parts: Sequence[_Part]) -> list[_Result]:
        """[function(part) for part in parts], with gradients where the caller has them; a single part is computed with
        all threads together."""
        if self.threads == 1 or len(parts) == 1:
            return [function(part) for part in parts]
        self._pool = self._pool or _threads_that_compute_alone(self.threads)
        with_gradients = torch.is_grad_enabled()  # a thread does not know what its caller has set

        def computed(part: _Part) -> _Result:
            with torch.set_grad_enabled(with_gradients):
                return function(part)

        return list(self._pool.map(computed, parts))

    def runs(self, count: int) -> list[range]:
        """The numbers below `count`, at least 1, in as many runs as there are threads, if there are as many."""
        ends = [count * i // self.threads for i in range(self.threads + 1)]
        return [range(*both) for both in pairwise(ends) if both[0] < both[1]]


def _threads_that_compute_alone(count: int) -> ThreadPoolExecutor:
    ready = Barrier(count + 1)

    def compute_alone() -> None:
        torch.get_num_threads()  # a thread takes the number of the process when torch first meets it, not later
        torch.set_num_threads(1)
        ready.wait()

    pool = ThreadPoolExecutor(count, initializer=compute_alone)
    for _ in range(count):
        pool.submit(int)  # a thread is started only when there is something to do
    ready.wait()
    torch.set_num_threads(count)  # the threads have set their own number, and that of all threads yet to come
    return pool


def in_parts(images: Tensor, at_once: int) -> tuple[Tensor, ...]:
    """Parts of at most `at_once` images, as many for each thread, unless they became too small to be worth it."""
    return images.tensor_split(_number_of_parts(len(images), at_once, torch.get_num_threads()))


def _number_of_parts(images: int, at_once: int, threads: int) -> int:
    rounds = math.ceil(images / (at_once * threads))
    return max(math.ceil(images / at_once), min(rounds * threads, images // FEWEST_IMAGES), 1)
