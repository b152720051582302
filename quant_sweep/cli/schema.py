"""Types of the config: a value of the wrong kind or an unknown key is refused before any job starts.

Those of the sweep are in `sweep_schema`, so that the report's command loads no torch.
"""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING, DictConfig, OmegaConf

from quant_sweep.errors import InputError


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
class Train(Common):
    """`conf/train_config.yaml`."""

    model: Any = MISSING
    data: Any = MISSING
    train: Any = MISSING
    device: Device = MISSING


@dataclass
class Report(Common):
    """`conf/report_config.yaml`."""


@dataclass
class Ui(Common):
    """`conf/ui_config.yaml`."""

    port: int = MISSING


def register(*types: type[Common]) -> None:
    """Make types known to Hydra as `schema/<class name in small letters>`."""
    store = ConfigStore.instance()
    for config in types:
        node = OmegaConf.structured(config)
        if "overrides" in node:  # its keys are the network's; else overrides={input: 8} needs a +
            OmegaConf.set_struct(node.overrides, False)
        store.store(group="schema", name=config.__name__.lower(), node=node, package="_global_")


def check_keys(cfg: DictConfig, config: type[Common]) -> None:
    """Refuse keys that no command reads: `+x=1` adds them to a config that has a type.

    Raises:
        InputError: naming the key, and those that are there.
    """
    for prefix, node, keys in (("", cfg, fields(config)), ("tracking.", cfg.get("tracking"), fields(Tracking))):
        known = sorted(key.name for key in keys)
        for key in map(str, node) if isinstance(node, DictConfig) else ():
            if key not in (*known, "hydra"):
                raise InputError(f"{prefix}{key}: no such key; allowed are {', '.join(known)}")
