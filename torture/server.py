"""Sweeps on a real MLflow server that is stopped for a while, or killed and started again."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

from quant_sweep.cli import entry
from torture.forked import Child, command, start
from torture.sweeps import NETWORK, reported, sweep_here, wrong

_BITS = range(8, 1, -1)
_STOPPED_SECONDS = 20.0
_GONE_SECONDS = 5.0
_SHARE_AFTER_FIRST = 0.5  # of the seconds of a sweep in a process that has yet to import
_QUIET = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}


@final
class Server:
    """`mlflow server` on 127.0.0.1, its database in `folder`."""

    def __init__(self, folder: Path, port: int) -> None:
        self.address = f"http://127.0.0.1:{port}"
        self._folder = folder
        self._command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
        self._command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/server.db"]
        self._command += ["--artifacts-destination", str(folder / "kept")]

    def start(self) -> None:
        """Returns once it answers."""
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                self._command,
                env={**os.environ, **_QUIET},
                cwd=self._folder,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        end = time.monotonic() + 120
        while time.monotonic() < end:
            assert self._process.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"{self.address}/health", timeout=2).close()
            except OSError:
                time.sleep(0.3)
            else:
                return
        raise AssertionError("the server did not start")

    def send(self, number: int) -> None:
        """A signal to all of its processes."""
        os.killpg(self._process.pid, number)

    def end(self, number: int = signal.SIGTERM) -> None:
        """End it and wait for that."""
        self.send(number)
        self._process.wait(30)


@contextlib.contextmanager
def mlflow_server(folder: Path, port: int | None = None) -> Iterator[Server]:
    """A server for as long as the block lasts, at a free port if none is given."""
    server = Server(folder, port or free_port())
    server.start()
    try:
        yield server
    finally:
        server.end()


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def stopped(server: Server, sweep: Child) -> Counter[str]:
    """The server neither answers nor refuses for 20 s, which the sweep waits for."""
    server.send(signal.SIGSTOP)
    time.sleep(_STOPPED_SECONDS)
    server.send(signal.SIGCONT)
    return Counter(stopped=1, failed=int(sweep.wait() != 0))


def killed(server: Server, sweep: Child) -> Counter[str]:
    """The server is gone for some seconds; the command is given once more if it failed."""
    server.end(signal.SIGKILL)
    time.sleep(_GONE_SECONDS)
    server.start()
    counted = Counter(killed=1)
    if sweep.wait(seconds=600):
        counted["again"] += 1
        counted["failed"] += _sweep(server, sweep.log.parent).wait() != 0
    return counted


def count_disturbed(
    disturb: Callable[[Server, Child], Counter[str]], folder: Path, number: int, seed: int
) -> Counter[str]:
    """Sweeps whose server is `stopped` or `killed` at a drawn moment after their first point.

    Returns:
        what `disturb` counts; and what must not be: failed, lost, twice, left running, report differs, traceback.
    """
    chance, port = random.Random(seed), free_port()
    place = folder / "undisturbed"
    place.mkdir(parents=True)
    with mlflow_server(place, port) as server:
        began = time.monotonic()
        sweep_here(place, _arguments(server))
        seconds = _SHARE_AFTER_FIRST * (time.monotonic() - began)
    expected = reported(place)
    counted: Counter[str] = Counter()
    while counted[disturb.__name__] < number:
        place = folder / f"{disturb.__name__}{counted['begun']}"
        place.mkdir()
        counted["begun"] += 1
        with mlflow_server(place, port) as server:
            sweep = _sweep(server, place)
            _wait_for_first_point(sweep)
            time.sleep(chance.uniform(0, seconds))
            if not sweep.send(0):
                continue  # done before
            counted += disturb(server, sweep)
            counted += wrong(server.address, place, len(_BITS), expected)
    return counted


def _arguments(server: Server) -> list[str]:
    return ["-m", *NETWORK, f"bits={','.join(map(str, _BITS))}", f"tracking.uri={server.address}"]


def _sweep(server: Server, place: Path) -> Child:
    return start(command(entry.sweep, "quant-sweep", _arguments(server)), place, place / "log")


def _wait_for_first_point(sweep: Child) -> None:
    end = time.monotonic() + 120
    while not (sweep.log.exists() and "[1/" in sweep.log.read_text()):
        assert time.monotonic() < end, sweep.log.read_text()
        time.sleep(0.05)
