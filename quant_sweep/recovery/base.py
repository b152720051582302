"""What a recovery is: from a network on grids and some inputs to one with other weights, biases or grids."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph
from quant_sweep.runtime.kinds import fits, is_whole


@final
@dataclass(frozen=True, eq=False)
class OnGrids:
    """A network and the grids of its tensors.

    Attributes:
        graph: its weights may lie beside their grids; the nearest values of the grids are the ones that count.
        qparams: by tensor name; a tensor without an entry stays in float.
    """

    graph: QuantGraph
    qparams: Mapping[str, QParams]


class Recovery(ABC):
    """One method that wins back what quantization lost, without labels.

    To add one: a final subclass in a file of its own, its name in `recovery/__init__.py`, a yaml in `conf/recovery/`.
    """

    @abstractmethod
    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        """The network with other weights, biases or grids. Nodes keep their names; a layer may get a bias.

        Args:
            original: the float network; it is not changed.
            quantized: the same, as calibration, or the recovery before this one, left it.
            batches: inputs, float32 (n, ...) each, on the device to use; at least one.

        Raises:
            InputError: the method cannot work on such a network.
        """

    def same_network(self, original: QuantGraph) -> QuantGraph:
        """The float network that methods after this one compare with: it computes what `original` computes."""
        return original


class Inputs(Protocol):
    """Inputs of a network by their numbers, read when they are asked for; a tensor (n, ...) is such."""

    def __len__(self) -> int: ...

    def __getitem__(self, indices: Tensor, /) -> Tensor:
        """Those of int64 (k,), on the CPU, as float32 (k, ...) on the device to use."""


class SavedState(Protocol):
    """Where a long recovery keeps how far it is."""

    def read(self) -> Mapping[str, Tensor] | None:
        """What was written last by a process that did not come to its end; None if there is nothing."""

    def write(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        """Keep it, unless it was kept just now."""


@final
class NoSavedState:
    """A `SavedState` that keeps nothing."""

    def read(self) -> None:
        return None

    def write(self, state: Callable[[], Mapping[str, Tensor]]) -> None: ...


@final
@dataclass(frozen=True)
class LearningTask:
    """What a recovery that learns is given besides the networks.

    Attributes:
        inputs: to learn from; none of them is among those that judge it.
        saved: how far an earlier process came.
    """

    inputs: Inputs
    saved: SavedState = field(default_factory=NoSavedState)


class Learner(Recovery):
    """A recovery in many small steps. It may learn from more inputs than calibration sees, and goes on where a process
    was interrupted: the result is the same.

    Attributes:
        images: how many inputs it wants, if there are as many.
    """

    images: int

    @abstractmethod
    def learn(self, original: QuantGraph, quantized: OnGrids, task: LearningTask) -> OnGrids:
        """As `recover`."""

    @final
    def recover(self, original: QuantGraph, quantized: OnGrids, batches: Sequence[Tensor]) -> OnGrids:
        return self.learn(original, quantized, LearningTask(torch.cat(list(batches))))


def check_whole(method: Recovery, **lowest: int) -> None:
    """Refuse settings, by name, that are no whole numbers from `lowest`; raises InputError."""
    for name, least in lowest.items():
        value = getattr(method, name)
        if not is_whole(value, least):
            raise InputError(f"{name}={value!r}: allowed are whole numbers from {least}")


def check_positive(method: Recovery, *names: str) -> None:
    """Refuse settings that are no numbers above 0 and below 100; raises InputError."""
    for name in names:
        value = getattr(method, name)
        if not fits(value, float) or not 0 < value < 100:
            raise InputError(f"{name}={value!r}: allowed are numbers above 0 and below 100")


def check_share(method: Recovery, *names: str) -> None:
    """Refuse settings that are no numbers from 0 to 1; raises InputError."""
    for name in names:
        value = getattr(method, name)
        if not fits(value, float) or not 0 <= value <= 1:
            raise InputError(f"{name}={value!r}: allowed are numbers from 0 to 1")
