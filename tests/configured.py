"""The real config tree, composed as the command would, for tests that stop short of a command; and what it can name."""

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType

from hydra import compose, initialize_config_dir
from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import config_folder
from quant_sweep.cli.schema import Report, Train, Ui, register
from quant_sweep.cli.sweep_schema import Allocate, Explain, Sensitivity, Sweep

# The network of most tests of commands: names and shapes of ResNet-20, a third of its layers.
RESNET8 = (
    "model=custom",
    "model.factory=quant_sweep.models.cifar_resnet:CifarResNet",
    "model.kwargs={blocks: 1}",
    "model.name=resnet8",
)


def composed(*overrides: str, config: str = "config") -> DictConfig:
    """What `quant-sweep OVERRIDES` would hand to its job."""
    _register_once()
    with initialize_config_dir(str(config_folder()), version_base="1.3"):
        return compose(config, overrides=list(overrides))


@cache
def _register_once() -> None:
    register(Sweep, Explain, Sensitivity, Allocate, Train, Report, Ui)


def concrete_classes(package: ModuleType, base: type) -> set[type]:
    """The subclasses of `base` that the modules of `package` define and that can be made."""
    for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
        importlib.import_module(module.name)
    found, unseen = set(), [base]
    while unseen:
        children = unseen.pop().__subclasses__()
        unseen += children
        found |= {cls for cls in children if cls.__module__.startswith(f"{package.__name__}.")}
    return {cls for cls in found if not inspect.isabstract(cls)}
