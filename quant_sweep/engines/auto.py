"""Which engine to take when nobody says: integer kernels where they compute exactly, else the simulation.

The choice is made for a network and its grids, before any calibration, and again on every machine: what has grids of
more than 8 bits, runs on a GPU, or finds no exact kernels is simulated.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.engines.base import Engine
from quant_sweep.engines.int8 import Int8
from quant_sweep.engines.lowering import largest_product, why_unsupported, why_without_layers
from quant_sweep.engines.onednn import why_not_exact
from quant_sweep.engines.simulate import Simulate
from quant_sweep.graph import QuantGraph


@final
@dataclass(frozen=True, eq=False)
class Choice:
    """An engine by its name, and why it was taken."""

    name: str
    engine: Engine
    reason: str


@final
class Auto:
    """Stands for an engine until the network, its grids and the device are known.

    Attributes:
        devices: types of torch devices that one of its engines computes on.
    """

    devices: tuple[str, ...] = ("cpu", "cuda")

    def choose(self, graph: QuantGraph, specs: Mapping[str, QuantSpec], device: torch.device) -> Choice:
        """The engine for `graph` on grids of `specs`, by tensor name."""
        reason = f"int8 computes on the CPU, not on {device.type}" if device.type not in Int8.devices else None
        reason = reason or why_unsupported(graph, specs) or why_without_layers(graph, specs)
        reason = reason or why_not_exact(*largest_product(graph, specs))
        if reason is None:
            return Choice("int8", Int8(), "this CPU's integer kernels compute it exactly")
        return Choice("simulate", Simulate(), reason)
