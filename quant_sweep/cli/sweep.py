"""`quant-sweep`: one run, or with -m a whole sweep, its report at the end."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import one_line_errors, release_memory, run_hydra, take_flag
from quant_sweep.cli.jobs import sweep_name
from quant_sweep.cli.journal import Entry, Journal, Status
from quant_sweep.cli.progress import Display, jobs_shown, only_warnings, terminal
from quant_sweep.cli.report import address_of, open_to_read, report_folder, tell
from quant_sweep.cli.signals import Stopped, check_stopped, say_stopped, stopped_by_signals, stopped_not_failed
from quant_sweep.cli.sweep_page import members_of, sweep_page, told
from quant_sweep.cli.sweep_schema import Sweep
from quant_sweep.cli.waiting import cores_divided
from quant_sweep.errors import InputError
from quant_sweep.report import build_report
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.prepare import prepare
from quant_sweep.sweep.run import run_point
from quant_sweep.tracking import command, one_line, sweep_alive

log = logging.getLogger(__name__)
_display: ContextVar[Display] = ContextVar("_display")
_multirun: ContextVar[Multirun | None] = ContextVar("_multirun", default=None)


@dataclass(frozen=True)
class Multirun:
    """A multirun that goes on.

    Attributes:
        alive: held by its process; see `Tracker`.
        shown: its progress, while it is open.
    """

    config: DictConfig
    alive: AbstractContextManager[object]
    shown: contextlib.ExitStack


class RememberMultirun(Callback):
    """Keeps the config of a multirun for its end, which Hydra tells only if no job failed, and shows its progress."""

    def on_multirun_start(self, config: DictConfig, **_: Any) -> None:
        folder, sweep = Path(config.tracking.lock_dir), sweep_name(config.hydra)
        alive, journal, display = sweep_alive(folder, sweep), Journal.of(folder, sweep), _display.get()
        journal.remove()
        shown = contextlib.ExitStack()
        shown.enter_context(jobs_shown(display, journal, display.jobs))
        shown.enter_context(_garbage_of_jobs_alone())
        shown.enter_context(cores_divided(str(config.hydra.launcher._target_), display.jobs))
        _multirun.set(Multirun(config, alive, shown))

    def on_job_start(self, config: DictConfig, **_: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            only_warnings(logging.getLogger().handlers)

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **_: Any) -> None:
        if config.hydra.mode == RunMode.MULTIRUN:
            release_memory(job_return)


@contextlib.contextmanager
def _garbage_of_jobs_alone() -> Iterator[None]:
    """Let Python look for garbage among what the jobs make, not among all that is imported.

    A job leaves some 3,000 objects of Hydra's configs in cycles, 0.3 MB. Python looks for such when there are a quarter
    more objects than it kept the last time: of the 800,000 that are imported, that is after 60 jobs.
    """
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep"):
        typed, full, display = command(), take_flag("--full"), Display(terminal())
        _display.set(display)
        stopped: Stopped | None = None
        try:
            with stopped_not_failed():
                run_hydra("config", _job, Sweep, check=_check, display=display)
            check_stopped()
        except Stopped as stop:
            stopped = stop
            say_stopped("quant-sweep", stop)
            raise SystemExit(stop.exit_code) from None
        finally:
            multirun = _multirun.get()
            if multirun is not None:
                with multirun.alive:
                    multirun.shown.close()
                    _close_multirun(multirun, stopped, typed, full)


def _check(cfg: DictConfig, in_this_process: bool) -> None:
    """What stops a job, before any of them begins.

    Jobs that run in this process find what is read here; for those of others only what is quick is looked at.
    """
    point = read_point(cfg)
    open_tracker(cfg)
    if in_this_process:
        prepare(point)


def _job(cfg: DictConfig) -> None:
    hydra = HydraConfig.get()
    if hydra.mode != RunMode.MULTIRUN:
        run_point(cfg, sweep=None)
        return
    check_stopped()
    sweep, job, began = sweep_name(hydra), tuple(hydra.overrides.task), time.monotonic()
    journal = Journal.of(Path(cfg.tracking.lock_dir), sweep)
    try:
        with stopped_by_signals():  # of a launcher's own processes
            outcome = run_point(cfg, sweep)
    except InputError as error:
        log.error("%s", error)
        journal.add(Entry(job, "failed", str(error), time.monotonic() - began))
        raise
    except Exception as error:
        # A multirun goes on after a failed job and prints only the first traceback: log each.
        log.exception("failed: %s", " ".join(job))
        journal.add(Entry(job, "failed", f"{type(error).__name__}: {one_line(error)}", time.monotonic() - began))
        raise
    status: Status = "skipped" if outcome.skipped else "done"
    journal.add(Entry(job, status, outcome.text, time.monotonic() - began, outcome.run_id))


def _close_multirun(multirun: Multirun, stopped: Stopped | None, typed: str, full: bool) -> None:
    """Close the sweep and show the report of all runs of the experiment, failed jobs or not.

    One that was stopped may have no store yet; then there is nothing to show.
    """
    config = multirun.config
    sweep = sweep_name(config.hydra)
    journal = Journal.of(Path(config.tracking.lock_dir), sweep)
    entries = journal.read()
    journal.remove()
    with contextlib.suppress(InputError) if stopped else contextlib.nullcontext():
        tracker = open_to_read(config.tracking) if stopped else open_tracker(config)
        members = members_of(sweep, tracker.runs(), entries)
        run_id = tracker.note_sweep(sweep, members, told(entries, typed))
        runs = tracker.runs()
        report = build_report(runs, report_folder(config), Path(config.outputs_dir))
        page = sweep_page(members, sum(entry.status == "failed" for entry in entries), runs, report)
        if stopped:
            tracker.kill_sweep(run_id, stopped, page)
        else:
            tracker.finish_sweep(run_id, page)
        tell(report, address_of(tracker, report), full)
        if run_id is not None:
            print(f"Sweep:  {tracker.report_address(run_id)}")
