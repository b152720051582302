"""What Hydra's own part of a config may build: a yaml from elsewhere names no class, program or file of its own there.

Hydra imports packages that it looks for configs in, and instantiates callbacks, launchers and sweepers, and
`logging.config` whatever `()` and `class` name, before a job begins. Everything that can run code is allow-listed here.
A launcher's own lines of shell are the person's word on the command line only.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from omegaconf import DictConfig, OmegaConf

from quant_sweep.errors import InputError

_CALLBACKS = (
    "quant_sweep.cli.sweep.RememberMultirun",
    "hydra.experimental.callbacks.LogJobReturnCallback",
    "hydra.experimental.callbacks.PickleJobInfoCallback",
)
_SWEEPERS = ("hydra._internal.core_plugins.basic_sweeper.BasicSweeper",)
_LAUNCHERS = (
    "hydra._internal.core_plugins.basic_launcher.BasicLauncher",
    "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
    "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
    "hydra_plugins.hydra_ray_launcher.ray_launcher.RayLauncher",
    "hydra_plugins.hydra_rq_launcher.rq_launcher.RQLauncher",
)
_SHELL = ("setup", "srun_args", "additional_parameters", "python", "runtime_env")  # settings of launchers
_LOGGING = (
    *("logging.StreamHandler", "logging.FileHandler", "logging.NullHandler", "rich.logging.RichHandler"),
    *("logging.handlers.RotatingFileHandler", "logging.handlers.TimedRotatingFileHandler"),
    *("logging.Formatter", "colorlog.ColoredFormatter"),
)
_STREAMS = ("ext://sys.stdout", "ext://sys.stderr")
_NAMED_BY_PERSONS = {"main": "--config-path", "command-line": "--config-dir"}  # Hydra's word for who gave a place: key
# Threads, devices and memory; not what Python, the linker or MLflow's credentials read.
_VARIABLES = ("OMP_", "GOMP_", "KMP_", "MKL_", "OPENBLAS_", "DNNL_", "ONEDNN_", "CUDA_", "PYTORCH_", "TMPDIR")


def check_hydra(hydra: DictConfig) -> None:
    """Refuse what is not on the lists above; nothing is resolved or imported.

    Args:
        hydra: the node of that name in a composed config.

    Raises:
        InputError: naming the key, the value and what is allowed.
    """
    typed = [str(override).lstrip("+~").partition("=")[0] for override in hydra.overrides.hydra]
    written = OmegaConf.to_container(hydra, resolve=False)
    assert isinstance(written, dict)
    callbacks = _mapping("hydra.callbacks", written.get("callbacks"))
    for name, callback in callbacks.items():
        _check_target(f"hydra.callbacks.{name}", callback, _CALLBACKS)
    _check_target("hydra.sweeper", written.get("sweeper"), _SWEEPERS)
    _check_target("hydra.launcher", written.get("launcher"), _LAUNCHERS)
    for key, value in _leaves("hydra.launcher", written["launcher"]):
        own_word = any(key == name or key.startswith(f"{name}.") for name in typed)
        if any(part in _SHELL for part in key.split(".")) and value not in (None, "") and not own_word:
            raise InputError(f"{key}={value!r}: it runs commands; type it on the command line")
    for group in ("job_logging", "hydra_logging"):
        _check_logging(f"hydra.{group}", _mapping(f"hydra.{group}", written.get(group)))
    for name in _mapping("hydra.job.env_set", written["job"].get("env_set")):
        if not name.startswith(_VARIABLES):
            raise InputError(f"hydra.job.env_set.{name}: no config may set it; allowed are {', '.join(_VARIABLES)}...")


def check_search_path(path: ConfigSearchPath) -> None:
    """Refuse to look for configs in a package that a person or a config names: looking into it imports it.

    Raises:
        InputError: naming the package and what is allowed.
    """
    for element in path.get_path():
        named = element.provider in _NAMED_BY_PERSONS or str(element.provider).startswith("hydra.searchpath")
        if named and str(element.path).startswith("pkg:"):
            key = _NAMED_BY_PERSONS.get(str(element.provider), "hydra.searchpath")
            raise InputError(f"{key}={element.path}: no config is read from a package; allowed are folders")


def _check_target(key: str, node: Any, allowed: Sequence[str]) -> None:
    """The class that a node names, and no other below it."""
    target = node.get("_target_") if isinstance(node, Mapping) else None
    if target not in allowed:
        raise InputError(f"{key}._target_={target!r}: no config builds this here; allowed: {', '.join(allowed)}")
    for path, value in _leaves(key, node):
        if path.endswith("._target_") and path != f"{key}._target_":
            raise InputError(f"{path}={value!r}: a config builds nothing here; leave it out")


def _check_logging(key: str, config: Mapping[str, Any]) -> None:
    for path, value in _leaves(key, config):
        last = path.rpartition(".")[2]
        is_format = last in ("format", "fmt", "datefmt")
        if last in ("()", "class") and value not in _LOGGING:
            raise InputError(f"{path}={value!r}: logging builds no other class here; allowed: {', '.join(_LOGGING)}")
        if last == "filename" and not str(value).endswith(".log"):
            raise InputError(f"{path}={value!r}: allowed is a file that ends in .log")
        if isinstance(value, str) and "://" in value and not is_format and value not in _STREAMS:
            raise InputError(f"{path}={value!r}: allowed are {' and '.join(_STREAMS)}")
        if isinstance(value, str) and "${" in value and last != "filename" and not is_format:
            raise InputError(f"{path}={value!r}: allowed is plain text here")


def _mapping(key: str, node: Any) -> Mapping[str, Any]:
    if not isinstance(node, Mapping | None):
        raise InputError(f"{key}={node!r}: allowed is a mapping, written out")
    return node or {}


def _leaves(key: str, node: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _leaves(f"{key}.{name}", value)
    elif isinstance(node, list):
        for index, value in enumerate(node):
            yield from _leaves(f"{key}.{index}", value)
    else:
        yield key, node
