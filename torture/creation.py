"""Kills while the store is created, and many processes on a store that does not exist."""

from __future__ import annotations

import importlib
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from quant_sweep.tracking import Tracker, read_runs
from quant_sweep.tracking.failures import prepare_mlflow
from torture.forked import start

_EXPERIMENT = "creation"


def count_creation_kills(folder: Path, number: int, seed: int) -> Counter[str]:
    """Kill one to four processes that open a store which is not there, up to four times in a folder or until the
    store is there; then open it again and record a run.

    Returns:
        by state that each kill left (nothing, unfinished, store); recovered, of the folders; and what must not be:
        ruined.
    """
    warm_up(folder / "warm-up")
    chance = random.Random(seed)
    seconds = _seconds_of_a_creation(_new(folder / "timed"))
    counted: Counter[str] = Counter()
    place = _new(folder / "creation0")
    for index in range(number):
        left = _killed(place, chance, seconds)
        counted[left] += 1
        if left == "store" or index % 4 == 3 or index == number - 1:
            counted["recovered" if _recovers(place) else "ruined"] += 1
            place = _new(folder / f"creation{index + 1}")
    return counted


def count_first_openings(folder: Path, processes: int, points: int) -> Counter[str]:
    """Processes that all begin on a store which is not there and share out points.

    Returns:
        once, lost, twice: points by how often they were recorded; failed: processes that did not end well.
    """
    warm_up(folder / "warm-up")
    place = _new(folder / "store")
    keys = [f"point{index}" for index in range(points)]
    children = [
        start(lambda turn=turn: record(place, keys[turn:] + keys[:turn]), place, place / "log")  # type: ignore[misc]
        for turn in range(processes)
    ]
    failed = sum(child.wait() != 0 for child in children)
    runs = read_runs(f"sqlite:///{place}/mlflow.db", _EXPERIMENT)
    times = Counter(runs.loc[runs["status"] == "finished", "key"])
    return Counter(
        once=sum(times[key] == 1 for key in keys),
        lost=sum(times[key] == 0 for key in keys),
        twice=sum(times[key] > 1 for key in keys),
        failed=failed,
    )


def warm_up(folder: Path) -> None:
    """Import what opening a store imports, in a process that forks others; no connection is left open."""
    prepare_mlflow()
    folder.mkdir(parents=True, exist_ok=True)
    child = start(lambda: open_store(folder), folder, folder / "log")
    for module in ("alembic.command", "mlflow.store.tracking.sqlalchemy_store", "mlflow.tracking", "pandas"):
        importlib.import_module(module)
    assert child.wait() == 0, (folder / "log").read_text()


def open_store(place: Path) -> Tracker:
    """The store of `place`, created if need be."""
    return Tracker.open(f"sqlite:///{place}/mlflow.db", _EXPERIMENT, place / "artifacts", place / "locks")


def record(place: Path, keys: list[str]) -> None:
    """Record each key that nobody has recorded."""
    tracker = open_store(place)
    for key in keys:
        with tracker.lock(key):
            if tracker.find_finished(key) is None:
                with tracker.record(kind="point", key=key, name=key, params={}) as recorder:
                    recorder.metrics({"accuracy": 50.0})


def _killed(place: Path, chance: random.Random, seconds: float) -> str:
    """Start and kill; what is left."""
    children = [start(lambda: open_store(place), place, place / "log") for _ in range(chance.choice((1, 2, 4)))]
    time.sleep(chance.uniform(0, seconds * len(children) ** 0.5))
    for child in children:
        child.send(signal.SIGKILL)
    for child in children:
        child.wait()
    if (place / "mlflow.db").exists():
        return "store"
    return "unfinished" if any(place.glob(".mlflow.db.*.tmp*")) else "nothing"


def _recovers(place: Path) -> bool:
    """Whether a process that comes later can work, and nothing unfinished is left beside the store."""
    log = place / "log"
    child = start(lambda: record(place, ["again"]), place, log)
    recovered = child.wait() == 0 and not any(place.glob(".mlflow.db.*.tmp*"))
    if not recovered:
        print(log.read_text(), os.listdir(place))
    return recovered


def _seconds_of_a_creation(place: Path) -> float:
    began = time.monotonic()
    child = start(lambda: record(place, ["first"]), place, place / "log")
    assert child.wait() == 0, (place / "log").read_text()
    return time.monotonic() - began


def _new(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder
