"""Tries mistakes, each in a process forked from one that has imported all tests: a plugin of pytest."""

from __future__ import annotations

import gc
import os
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import pytest
import torch
from mutmut.mutation.trampoline import set_mutant_under_test

_SECONDS = 30  # of tests for a mistake; what they do not notice by then counts as missed
_SECONDS_OF_A_TEST = 60  # and on the clock three times as many: an endless loop is noticed too
_PASSED, _FAILED, _NOT_TRIED = 0, 1, 2  # exit codes


@dataclass(frozen=True)
class Trial:
    """A mistake, and its tests in the order in which they are tried."""

    name: str
    tests: list[str]


class Trials:
    """Tries each mistake in a process of its own, several at a time, and tells whether its tests notice it."""

    def __init__(self, trials: list[Trial], processes: int, tell: Callable[[str, bool], None]) -> None:
        self.trials, self.processes, self.tell = trials, processes, tell
        self.failed = False

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed |= report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """In place of pytest's own."""
        items = {item.nodeid: item for item in session.items}
        torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))  # imports what all forked processes need
        gc.freeze()  # so that collecting garbage does not copy memory that the processes share
        for name, code in self._codes(items):
            self.tell(name, code != _PASSED)
        return True

    def _codes(self, items: dict[str, pytest.Item]) -> Iterator[tuple[str, int]]:
        """Exit codes of the mistakes' processes, below 0 for a signal, as they end."""
        waiting = self.trials[::-1]
        running: dict[int, str] = {}
        while waiting or running:
            while waiting and len(running) < self.processes:
                trial = waiting.pop()
                running[self._start(trial, items)] = trial.name
            process, status = os.wait()
            name, code = running.pop(process), os.waitstatus_to_exitcode(status)
            if code == _NOT_TRIED:
                raise RuntimeError(f"{name} could not be tried")
            yield name, code

    def _start(self, trial: Trial, items: dict[str, pytest.Item]) -> int:
        process = os.fork()
        if process == 0:
            code = _NOT_TRIED
            try:
                code = self._try(trial, [items[test] for test in trial.tests if test in items])
            finally:
                os._exit(code)
        return process

    def _try(self, trial: Trial, items: list[pytest.Item]) -> int:
        nothing = os.open(os.devnull, os.O_RDWR)
        for stream in range(3):
            os.dup2(nothing, stream)
        torch.set_num_threads(1)  # the first call behind a fork makes a new pool; threads of autograd would race for it
        set_mutant_under_test(trial.name)
        start = time.process_time()
        for item, following in zip(items, (*items[1:], None), strict=False):  # none where no test runs its line
            if time.process_time() - start > _SECONDS:
                break
            signal.setitimer(signal.ITIMER_PROF, _SECONDS_OF_A_TEST)  # its signals end the process
            signal.setitimer(signal.ITIMER_REAL, 3 * _SECONDS_OF_A_TEST)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)
            if self.failed:
                return _FAILED
        return _PASSED
