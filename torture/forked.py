"""Commands in forked children: what takes seconds to import is imported once, and a kill is a real one."""

from __future__ import annotations

import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch

_STUCK = 120.0  # seconds after which a child is stuck


@dataclass(frozen=True)
class Child:
    """A process of ours.

    Attributes:
        log: what it prints.
    """

    pid: int
    log: Path

    def send(self, number: int) -> bool:
        """Whether it was there to receive the signal; call it before `wait`."""
        if os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        os.kill(self.pid, number)
        return True

    def wait(self, seconds: float = _STUCK) -> int:
        """Its exit code; minus the signal's number if one ended it; -9 as well if it is stuck and had to be killed."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.01)
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def start(work: Callable[[], None], folder: Path, log: Path) -> Child:
    """Fork a process that does `work` in the working folder `folder` and ends."""
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        return Child(pid, log)
    code = 1
    try:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # Python would raise KeyboardInterrupt in the middle of this
        torch.set_num_threads(1)  # the threads that the parent had are not here
        os.chdir(folder)
        descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115  (not what a test put there)
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        work()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def command(main: Callable[[], None], name: str, arguments: Sequence[str]) -> Callable[[], None]:
    """The work of a command with these arguments."""

    def work() -> None:
        sys.argv = [name, *arguments]
        main()

    return work
