"""An engine turns a float network into one that can be evaluated in few bits."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping

from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.graph import QuantGraph


class Engine(ABC):
    """Runs a network on given grids. All engines of this kind take the same QParams and can be held against each other.

    To add one: a final subclass in a file of its own, its name in `engines/__init__.py`, a yaml in `conf/engine/`.

    Attributes:
        devices: types of torch devices that it computes on.
    """

    devices: tuple[str, ...] = ("cpu",)

    def check(self, graph: QuantGraph, specs: Mapping[str, QuantSpec]) -> None:
        """Refuse, before any calibration, what the engine has no arithmetic for.

        Args:
            graph: the float network.
            specs: the kinds of grids, by tensor name.

        Raises:
            InputError: `build` would fail whatever calibration finds.
        """
        del graph, specs  # any

    @abstractmethod
    def build(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> nn.Module:
        """The network with its tensors on their grids.

        Args:
            graph: the float network; it is not changed.
            qparams: by tensor name; a tensor without an entry stays in float.

        Returns:
            A module from normalised images, float32 (n, channels, height, width), to logits, float32 (n, classes).

        Raises:
            InputError: the engine has no arithmetic for one of the grids.
        """


class Flow(ABC):
    """Somebody else's complete quantization flow: it finds its own points and does its own calibration.

    Attributes:
        bits: the only width it has.
        devices: types of torch devices that it computes on.
    """

    bits: int
    devices: tuple[str, ...] = ("cpu",)

    @abstractmethod
    def check(self, observer: str) -> None:
        """Refuse what the flow cannot do, before any work.

        Raises:
            InputError: naming `observer=`.
        """

    @abstractmethod
    def facts(self) -> dict[str, object]:
        """What the flow decided by itself and a reader of its numbers should know."""

    @abstractmethod
    def quantize(
        self, model: nn.Module, batches: Callable[[], Iterable[Tensor]], observer: str
    ) -> tuple[nn.Module, dict[str, QParams]]:
        """Calibrate and convert a copy of `model`.

        Args:
            model: float, evaluation mode; it is not changed.
            batches: normalised calibration images, float32 (n, channels, height, width) each.
            observer: name of the activation observer.

        Returns:
            The converted network, images to logits; and its grids by tensor name.
        """
