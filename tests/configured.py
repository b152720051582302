"""The real config tree, composed as the command would, for tests that stop short of a command."""

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from quant_sweep.cli import schema
from quant_sweep.cli.hydra_app import config_folder


def composed(*overrides: str, config: str = "config") -> DictConfig:
    """What `quant-sweep OVERRIDES` would hand to its job."""
    schema.register()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(config, overrides=list(overrides))
