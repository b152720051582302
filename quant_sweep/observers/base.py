"""An observer answers one question: which real range should the grid cover?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.histograms.summary import Summary


class Observer(ABC):
    """A pure function from a summary and a grid to a range; subclasses are frozen dataclasses of its parameters.

    To add one: a final subclass in a file of its own, its name in `observers/__init__.py`, a yaml in `conf/observer/`.

    Attributes:
        between_batches: the parameters that say how batches are averaged, and mean nothing where there is one.
    """

    between_batches: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def range(self, summary: Summary, spec: QuantSpec) -> tuple[Tensor, Tensor]:
        """Choose what the grid should represent.

        Args:
            summary: what calibration kept of the tensor.
            spec: the grid that will be laid over the range.

        Returns:
            lo and hi, real units, float32 (channels,), lo <= hi. `qparams_from_range` widens them to hold 0.
        """
