"""Types of the config of one run, and of what explains or ranks with its settings; these load torch."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from omegaconf import MISSING

from quant_sweep.arithmetic.widths import MAX_BITS, MIN_BITS
from quant_sweep.cli.schema import Common, Device
from quant_sweep.graph import Fusion

# omegaconf takes a number for a member of an Enum with that value; its own ints have no bounds.
Bits = Enum("Bits", {f"bits_{n}": n for n in range(MIN_BITS, MAX_BITS + 1)})  # type: ignore[misc]


@dataclass
class Sweep(Common):
    """`conf/config.yaml`; the groups' own values are checked by what they build."""

    model: Any = MISSING
    data: Any = MISSING
    observer: Any = MISSING
    weight_observer: Any = MISSING
    scheme: Any = MISSING
    engine: Any = MISSING
    calibration: Any = MISSING
    metric: Any = MISSING
    recovery: dict[str, Any] = field(default_factory=dict)
    bits: Bits = MISSING
    weight_bits: Bits = MISSING
    activation_bits: Bits = MISSING
    overrides: Any = field(default_factory=dict)
    fusion: Fusion = MISSING
    # omegaconf takes 8.5 for the int 8 and 2 for the bool True: these are checked with the values of groups.
    seed: Any = MISSING
    device: Device = MISSING
    batch_size: Any = MISSING
    force: Any = MISSING


@dataclass
class Explain(Sweep):
    """`conf/explain_config.yaml`, which takes all of `conf/config.yaml`."""

    layer: str = MISSING
    images: Any = MISSING


@dataclass
class Allocate(Sweep):
    """`conf/allocate_config.yaml`."""

    budget: Any = field(default_factory=dict)
    widths: Any = MISSING
    steps: Any = MISSING


@dataclass
class Sensitivity(Sweep):
    """`conf/sensitivity_config.yaml`."""

    images: Any = MISSING
