"""Signals that ask a command to end: Ctrl-C (SIGINT), SIGTERM of a batch system, SIGHUP of a terminal that closes.

Each becomes an exception in the main thread, so that what is open is closed on the way out: runs are marked as killed,
locks are freed, unfinished files removed. Imports nothing heavy, since a command begins here.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import FrameType
from typing import final

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AGAIN_SECONDS = 0.05
_ECHO_SECONDS = 1.0  # `timeout` and batch systems send a signal to a process and to its group: twice


class Stopped(KeyboardInterrupt):
    """A signal asked the process to end. No `Exception`, so that nothing takes it for a failure of the work.

    Attributes:
        number: of the signal.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    @property
    def exit_code(self) -> int:
        """As shells have it: 130 for Ctrl-C, 143 for SIGTERM, 129 for SIGHUP."""
        return 128 + self.number

    def __str__(self) -> str:
        return f"stopped by {'Ctrl-C' if self.number == signal.SIGINT else signal.Signals(self.number).name}"


@final
class _Stop:
    """Handler of all of them: raises once. A second Ctrl-C, a second later or more, ends the process at once.

    Attributes:
        received: the signal that asked for the end.
        lost: what it raised came to nothing; the next one raises again.
    """

    def __init__(self) -> None:
        self.received: int | None = None
        self.lost = False
        self._time = 0.0

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if self.received is None or self.lost:
            self.received, self.lost, self._time = number, False, time.monotonic()
            raise Stopped(number)
        if number == signal.SIGINT and time.monotonic() - self._time > _ECHO_SECONDS:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)


@final
class _End:
    """Handler of all of them while there is nothing to close: ends the process with the one line."""

    def __init__(self, command: str) -> None:
        self._command = command

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        stopped = Stopped(number)
        say_stopped(self._command, stopped)
        os._exit(stopped.exit_code)


@contextlib.contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Meanwhile the first of these signals raises Stopped in the main thread; later ones do not disturb what it does
    then. A signal that is ignored (nohup) or has a handler of somebody else keeps it."""
    with _handled(_Stop()), _sent_again(), stopped_not_failed():
        yield


@contextlib.contextmanager
def ended_by_signals(command: str) -> Iterator[None]:
    """Meanwhile, outside of `stopped_by_signals`, a signal ends the process with the one line of `say_stopped`."""
    with _handled(_End(command)):
        yield


@contextlib.contextmanager
def stopped_not_failed() -> Iterator[None]:
    """Raise Stopped for whatever else is raised after a signal: code that is interrupted fails on the way out, and the
    error of its cleaning up takes the signal's place."""
    try:
        yield
    except (Stopped, SystemExit):
        raise
    except BaseException as error:
        number = _received()
        if number is None:
            raise
        raise Stopped(number) from error


def check_stopped() -> None:
    """Raise Stopped again where the first was lost, as Python loses it in a destructor; to be called between jobs."""
    number = _received()
    if number is not None:
        raise Stopped(number)


@contextlib.contextmanager
def _sent_again() -> Iterator[None]:
    """Send a signal again that came while a destructor or a callback of a weak reference ran: Python prints what is
    raised there, with its traceback, and goes on."""
    earlier = sys.unraisablehook

    def again(lost: sys.UnraisableHookArgs) -> None:
        handler = signal.getsignal(lost.exc_value.number) if isinstance(lost.exc_value, Stopped) else None
        if not isinstance(lost.exc_value, Stopped) or not isinstance(handler, _Stop):
            earlier(lost)
            return
        handler.lost = True
        timer = threading.Timer(_AGAIN_SECONDS, os.kill, (os.getpid(), lost.exc_value.number))
        timer.daemon = True
        timer.start()

    sys.unraisablehook = again
    try:
        yield
    finally:
        sys.unraisablehook = earlier


def _received() -> int | None:
    """The signal that asked this process to end; who asks raises it, and it is not raised again."""
    for handler in map(signal.getsignal, _SIGNALS):
        if isinstance(handler, _Stop):
            handler.lost = False
            return handler.received
    return None


def say_stopped(command: str, stopped: Stopped) -> None:
    """The one line."""
    print(f"{command}: {stopped}; what is finished is kept, the same command goes on from there", file=sys.stderr)
    sys.stderr.flush()


@contextlib.contextmanager
def _handled(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    in_main_thread = threading.current_thread() is threading.main_thread()
    ours = [number for number in _SIGNALS if in_main_thread and _is_replaceable(signal.getsignal(number))]
    before = {number: signal.signal(number, handler) for number in ours}
    try:
        yield
    finally:
        for number, earlier in before.items():
            signal.signal(number, earlier)


def _is_replaceable(handler: object) -> bool:
    return handler in (signal.SIG_DFL, signal.default_int_handler) or isinstance(handler, _End)
