"""What a command shows of its progress: one live line on a terminal, a line now and then elsewhere.

A step (calibration, evaluation, recovery, decoding) is shown once it has taken two seconds on a terminal, ten in a log.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable, Iterator, Sequence
from threading import Event, Lock, Thread
from typing import final

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from quant_sweep.cli.journal import Entry, Journal, differing
from quant_sweep.errors import printable
from quant_sweep.runtime.progress import heard_by

_SECONDS_ON_TERMINAL, _SECONDS_IN_LOG = 2.0, 10.0
_POLL_SECONDS = 0.3


@final
class Display:
    """Where a command shows how far it is; `step` may be called from any thread.

    Args:
        console: a terminal, or not.
        clock: seconds, for tests.

    Attributes:
        jobs: of a multirun, once they are known.
    """

    def __init__(self, console: Console, clock: Callable[[], float] = time.monotonic) -> None:
        self.console, self._clock = console, clock
        self.jobs = 0
        self._turn = Lock()
        self._live: Live | None = None
        self._headline, self._step = "", ""
        self._what, self._began, self._told = "", 0.0, 0.0

    def headline(self, text: str) -> None:
        """Show the state of a multirun until the next call; nothing for an empty text."""
        with self._turn:
            self._headline = text
            self._show()

    def step(self, what: str, done: int, total: int) -> None:
        """Show a step, if it takes its time; see `quant_sweep.runtime.progress`."""
        now = self._clock()
        with self._turn:
            if what != self._what or done == 0:
                self._what, self._began, self._told = what, now, now
            since = now - self._began
            if done >= total:
                self._what = ""
                self._set_step("")
            elif self.console.is_terminal:
                if since >= _SECONDS_ON_TERMINAL:
                    self._set_step(_step_text(what, done, total, since))
            elif now - self._told >= _SECONDS_IN_LOG:
                self._told = now
                self.console.print(escape(_step_text(what, done, total, since)), highlight=False)

    def close(self) -> None:
        """Take the live line away."""
        with self._turn:
            self._headline = self._step = ""
            self._show()

    def _set_step(self, text: str) -> None:
        if text != self._step:
            self._step = text
            self._show()

    def _show(self) -> None:
        text = "; ".join(part for part in (self._headline, self._step) if part)
        if not self.console.is_terminal:
            return
        if not text:
            if self._live is not None:
                self._live.stop()
                self._live = None
            return
        if self._live is None:
            self._live = Live(console=self.console, transient=True, refresh_per_second=4)
            self._live.start()
        self._live.update(Text(text, no_wrap=True, overflow="ellipsis"))


def terminal() -> Console:
    """Standard error, and where that is no terminal, standard output."""
    errors = Console(stderr=True)
    return errors if errors.is_terminal else Console()


@contextlib.contextmanager
def steps_shown(display: Display) -> Iterator[None]:
    """Meanwhile, long steps are shown; at the end the terminal is as it was."""
    try:
        with heard_by(display.step):
            yield
    finally:
        display.close()


@contextlib.contextmanager
def jobs_shown(display: Display, journal: Journal, total: int) -> Iterator[None]:
    """Meanwhile, a thread shows what the journal of a multirun of `total` jobs says.

    On a terminal as one live line, with the errors of failed jobs above it; elsewhere as a line for each job.
    """
    began, ended, told = time.monotonic(), Event(), 0
    last = began

    def tell() -> None:
        nonlocal told, last
        entries, now = journal.read(), time.monotonic()
        last = now if len(entries) > told else last
        for number, entry in enumerate(entries[told:], start=told + 1):
            failed = f"failed: {differing(entries[:number], entry.job)}: {entry.text}"
            line = printable(failed if entry.status == "failed" else entry.text)
            if not display.console.is_terminal:
                left = time_left(entries[:number], total, last - began)
                display.console.print(f"[{number}/{total}] {line}{left}", markup=False, highlight=False, soft_wrap=True)
            elif entry.status == "failed":
                display.console.print(line, markup=False, highlight=False)
        told = len(entries)
        display.headline(counts(entries, total) + time_left(entries, total, last - began, now - last))

    def keep_telling() -> None:
        while not ended.wait(_POLL_SECONDS):
            tell()

    thread = Thread(target=keep_telling, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        tell()
        display.headline("")


def counts(entries: Sequence[Entry], total: int) -> str:
    """`7/25 points: 3 done, 3 skipped, 1 failed`."""
    kinds = {kind: sum(entry.status == kind for entry in entries) for kind in ("done", "skipped", "failed")}
    return f"{len(entries)}/{total} points: {', '.join(f'{count} {kind}' for kind, count in kinds.items())}"


def time_left(entries: Sequence[Entry], total: int, seconds: float, since: float = 0.0) -> str:
    """`; 2 min left`: as long for each of the others as for those that were computed; empty where nothing is known.

    Args:
        seconds: from the beginning of the first job to the end of the last one; several may run at once.
        since: seconds since then.
    """
    computed = sum(entry.status == "done" for entry in entries)
    if not computed or len(entries) >= total:
        return ""
    return f"; {_duration(seconds / computed * (total - len(entries)) - since)} left"


def only_warnings(handlers: Sequence[logging.Handler]) -> None:
    """Leave to the terminal what a person must know of a job; its own log file has the rest, errors included."""
    for handler in handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: record.levelno == logging.WARNING)


def _step_text(what: str, done: int, total: int, seconds: float) -> str:
    share = f"{what} {100 * done // max(total, 1)} %"
    return f"{share}, {_duration(seconds / done * (total - done))} left" if done else share


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
