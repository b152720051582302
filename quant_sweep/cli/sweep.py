"""`quant-sweep`: one run, or with -m a whole sweep, its report at the end."""

from __future__ import annotations

import logging
from contextvars import ContextVar
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.jobs import sweep_name
from quant_sweep.cli.report import show_report
from quant_sweep.cli.sweep_schema import Sweep
from quant_sweep.errors import InputError
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.prepare import prepare
from quant_sweep.sweep.run import run_point

log = logging.getLogger(__name__)
_multirun: ContextVar[DictConfig | None] = ContextVar("_multirun", default=None)


class RememberMultirun(Callback):
    """Keeps the config of a multirun for its end: Hydra itself tells of the end only if no job failed."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _multirun.set(config)


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep"):
        try:
            run_hydra("config", _job, Sweep, check=_check)
        finally:
            config = _multirun.get()
            if config is not None:
                _finish_multirun(config)


def _check(cfg: DictConfig, in_this_process: bool) -> None:
    """What stops a job, before any of them begins.

    Jobs that run in this process find what is read here; for those of others only what is quick is looked at.
    """
    point = read_point(cfg)
    open_tracker(cfg)
    if in_this_process:
        prepare(point)


def _job(cfg: DictConfig) -> None:
    if HydraConfig.get().mode != RunMode.MULTIRUN:
        return run_point(cfg, sweep=None)
    try:
        return run_point(cfg, sweep=sweep_name(HydraConfig.get()))
    except InputError as error:
        log.error("%s", error)
        raise
    except Exception:
        # A multirun goes on after a failed job and prints only the first traceback: log each.
        log.exception("failed: %s", " ".join(HydraConfig.get().overrides.task))
        raise


def _finish_multirun(config: DictConfig) -> None:
    """Close the sweep and show the table of all runs of the experiment, failed jobs or not."""
    open_tracker(config).finish_sweep(sweep_name(config.hydra))
    show_report(config)
