"""`quant-sweep`: one run, or with -m a whole sweep, its report at the end."""

from __future__ import annotations

import contextlib
import logging
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.jobs import sweep_name
from quant_sweep.cli.report import show_report
from quant_sweep.cli.signals import Stopped, check_stopped, say_stopped, stopped_by_signals, stopped_not_failed
from quant_sweep.cli.sweep_schema import Sweep
from quant_sweep.errors import InputError
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.prepare import prepare
from quant_sweep.sweep.run import run_point
from quant_sweep.tracking import Tracker, sweep_alive

log = logging.getLogger(__name__)
_multirun: ContextVar[Multirun | None] = ContextVar("_multirun", default=None)


@dataclass(frozen=True)
class Multirun:
    """A multirun that goes on.

    Attributes:
        alive: held by its process; see `Tracker`.
    """

    config: DictConfig
    alive: AbstractContextManager[object]


class RememberMultirun(Callback):
    """Keeps the config of a multirun for its end: Hydra itself tells of the end only if no job failed."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        _multirun.set(Multirun(config, sweep_alive(Path(config.tracking.lock_dir), sweep_name(config.hydra))))


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep"):
        stopped: Stopped | None = None
        try:
            with stopped_not_failed():
                run_hydra("config", _job, Sweep, check=_check)
            check_stopped()
        except Stopped as stop:
            stopped = stop
            say_stopped("quant-sweep", stop)
            raise SystemExit(stop.exit_code) from None
        finally:
            multirun = _multirun.get()
            if multirun is not None:
                with multirun.alive:
                    _close_multirun(multirun, stopped)


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
    check_stopped()
    try:
        with stopped_by_signals():  # of a launcher's own processes
            return run_point(cfg, sweep=sweep_name(HydraConfig.get()))
    except InputError as error:
        log.error("%s", error)
        raise
    except Exception:
        # A multirun goes on after a failed job and prints only the first traceback: log each.
        log.exception("failed: %s", " ".join(HydraConfig.get().overrides.task))
        raise


def _close_multirun(multirun: Multirun, stopped: Stopped | None) -> None:
    """Close the sweep and show the table of all runs of the experiment, failed jobs or not.

    One that was stopped may have no store yet; then there is nothing to show.
    """
    config, tracking = multirun.config, multirun.config.tracking
    sweep = sweep_name(config.hydra)
    if stopped is None:
        open_tracker(config).finish_sweep(sweep)
        show_report(config)
    else:
        with contextlib.suppress(InputError):
            tracker = Tracker.open_existing(tracking.uri, tracking.experiment, Path(tracking.lock_dir))
            tracker.kill_sweep(sweep, stopped)
            show_report(config)
