"""The real config tree, composed as the command would, for tests that stop short of a command."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import config_folder
from quant_sweep.cli.schema import Report, Train, register
from quant_sweep.cli.sweep_schema import Explain, Sensitivity, Sweep


def composed(*overrides: str, config: str = "config") -> DictConfig:
    """What `quant-sweep OVERRIDES` would hand to its job."""
    register(Sweep, Explain, Sensitivity, Train, Report)
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(config, overrides=list(overrides))
