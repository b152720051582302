"""Types of the config: a value of the wrong kind or an unknown key is refused before any job starts."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, OmegaConf

from quant_sweep.arithmetic.qparams import MAX_BITS, MIN_BITS
from quant_sweep.graph import Fusion

# omegaconf takes a number for a member of an Enum with that value; its own ints have no bounds.
Bits = Enum("Bits", {f"bits_{n}": n for n in range(MIN_BITS, MAX_BITS + 1)})  # type: ignore[misc]


class Device(Enum):
    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@dataclass
class Tracking:
    uri: str = MISSING
    experiment: str = MISSING
    artifacts: str = MISSING
    lock_dir: str = MISSING


@dataclass
class Common:
    outputs_dir: str = MISSING
    cache_dir: str = MISSING
    tracking: Tracking = field(default_factory=Tracking)


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
    bits: Bits = MISSING
    weight_bits: Bits = MISSING
    activation_bits: Bits = MISSING
    overrides: dict[str, Any] = field(default_factory=dict)
    fusion: Fusion = MISSING
    seed: int = MISSING
    device: Device = MISSING
    batch_size: int = MISSING
    force: bool = MISSING


@dataclass
class Explain(Sweep):
    """`conf/explain_config.yaml`, which takes all of `conf/config.yaml`."""

    layer: str = MISSING
    images: int = MISSING


@dataclass
class Sensitivity(Sweep):
    """`conf/sensitivity_config.yaml`."""

    images: Any = MISSING


@dataclass
class Train(Common):
    """`conf/train_config.yaml`."""

    model: Any = MISSING
    data: Any = MISSING
    train: Any = MISSING
    device: Device = MISSING


@dataclass
class Report(Common):
    """`conf/report_config.yaml`."""


def register() -> None:
    """Make the types known to Hydra as `schema/...`."""
    store = ConfigStore.instance()
    for name, types in (("sweep", Sweep), ("explain", Explain), ("sensitivity", Sensitivity)):
        node = OmegaConf.structured(types)
        OmegaConf.set_struct(node.overrides, False)  # its keys are the network's; else overrides={input: 8} needs a +
        store.store(group="schema", name=name, node=node, package="_global_")
    store.store(group="schema", name="train", node=Train, package="_global_")
    store.store(group="schema", name="report", node=Report, package="_global_")
