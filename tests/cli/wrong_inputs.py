"""Checking what a person typed, many inputs in one process: a config is composed once for each choice of groups."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
from collections.abc import Callable
from unittest import mock

from configured import composed
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import one_line_errors
from quant_sweep.cli.schema import Common, Report, Train, check_keys
from quant_sweep.cli.sweep_schema import Sweep
from quant_sweep.cli.train import check_recipe
from quant_sweep.sweep.build import plain
from quant_sweep.sweep.choices import config_folder
from quant_sweep.sweep.environment import from_environment
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.store import check_store

GROUPS = {path.name for path in config_folder().iterdir() if path.is_dir()}
_TYPES: dict[str, type[Common]] = {"config": Sweep, "train_config": Train, "report_config": Report}


@functools.cache
def _composed(config: str, choices: tuple[str, ...]) -> DictConfig:
    return composed(*choices, config=config)


def config_of(*arguments: str, config: str = "config") -> DictConfig:
    """What Hydra would hand to the job: choices of groups composed, values set as it sets them."""
    choices = tuple(argument for argument in arguments if argument.partition("=")[0] in GROUPS)
    cfg = copy.deepcopy(_composed(config, choices))
    values = [argument for argument in arguments if argument not in choices]
    ConfigLoaderImpl._apply_overrides_to_config(OverridesParser.create().parse_overrides(values), cfg)
    return cfg


def checked(cfg: DictConfig, config: str = "config") -> None:
    """All that a command looks at before it reads a file."""
    check_keys(cfg, _TYPES[config])
    if config == "config":
        read_point(cfg)
    if config == "train_config":
        from_environment(cfg)
        check_recipe(plain(cfg))
    check_store(cfg.tracking)


def told(action: Callable[[], object], *arguments: str) -> str:
    """The one line that a command would leave for what `action` raises; fails on anything else."""
    err = io.StringIO()
    with (
        contextlib.redirect_stderr(err),
        mock.patch("sys.argv", ["quant-sweep", *arguments]),
        contextlib.suppress(SystemExit),
        one_line_errors("quant-sweep"),
    ):
        action()
    lines = err.getvalue().splitlines()
    assert len(lines) == 1, f"accepted, or more than one line: {lines}"
    return lines[0].removeprefix("quant-sweep: ")
