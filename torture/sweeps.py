"""Kills of real sweeps at any moment, and what their store holds in the end.

A sweep of a tiny network is started in one, two or four processes on a store that does not exist, killed several times,
and at last left alone. Half of the kills hit all processes, half of them one, whose work the others take over. A third
of them are signals that can be handled.
"""

from __future__ import annotations

import contextvars
import logging
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from hydra.core.global_hydra import GlobalHydra

from quant_sweep.cli import entry, sweep
from quant_sweep.tracking import read_runs
from quant_sweep.tracking.failures import prepare_mlflow
from torture.forked import Child, command, start

NETWORK = ["model=custom", "model.factory=torture.tiny:network", "calibration.images=64", "device=cpu"]
NETWORK += ["engine=simulate", "observer=minmax"]
ARGUMENTS = ["-m", *NETWORK, "bits=8,4,3"]
_POINTS = 3
_KILLS_PER_STORE = 4
_SHARE_OF_FIRST = 0.6  # of the seconds that the first sweep of a process takes, which imports much
_POLITE = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# Of points.csv; everything else is the same whenever it is measured.
_TIMINGS = ["calibration_seconds", "evaluation_seconds", "images_per_second", "run_id"]


class Sweeps:
    """Sweeps in folders of their own, held against one that nobody disturbed.

    Args:
        polite: share of the signals that can be handled; the others are SIGKILL.
    """

    def __init__(self, folder: Path, polite: float = 1 / 3) -> None:
        self._folder, self._polite = folder, polite
        prepare_mlflow()
        undisturbed = self._place("undisturbed")
        began = time.monotonic()
        sweep_here(undisturbed, ARGUMENTS)
        self._seconds = _SHARE_OF_FIRST * (time.monotonic() - began)
        self._reported = reported(undisturbed)

    def count_kills(self, number: int, processes: int, seed: int) -> Counter[str]:
        """Kill `number` times sweeps of that many processes, starting again each time.

        Returns:
            by what was sent; and what must not be: lost and twice (points), ruined (stores), left running (runs),
            report differs, wrong exit code, traceback.
        """
        chance = random.Random(seed)
        counted: Counter[str] = Counter()
        while (sent := sum(counted[name] for name in _sent_names())) < number:
            place = self._place(f"{processes}-{seed}-{counted['stores']}")
            for _ in range(min(_KILLS_PER_STORE, number - sent)):
                counted += self._killed(place, processes, chance)
            counted += self._ended(place, processes)
        return counted

    def _killed(self, place: Path, processes: int, chance: random.Random) -> Counter[str]:
        """One start and one kill; nothing is counted where the sweep was done before."""
        children = self._start(place, processes)
        time.sleep(chance.uniform(0, self._seconds * processes**0.5))
        number = chance.choice(_POLITE) if chance.random() < self._polite else signal.SIGKILL
        hit = set(children if chance.random() < 0.5 else [chance.choice(children)])
        reached = {child for child in hit if child.send(number)}
        allowed = {child: {0, 128 + number, -number} if child in reached else {0} for child in children}
        counted: Counter[str] = Counter()
        for child in children:
            code = child.wait()
            counted["wrong exit code"] += code not in allowed[child]
            if code not in allowed[child]:
                print(f"{place}: exit code {code} after {_name(number)}", child.log.read_text()[-4000:], sep="\n")
        counted[_name(number)] += bool(reached)
        return counted

    def _ended(self, place: Path, processes: int) -> Counter[str]:
        """A last start that nobody disturbs."""
        children = self._start(place, processes)
        codes = [child.wait() for child in children]
        counted = Counter({"stores": 1, "ruined": int(any(codes))})
        if any(codes):
            print(f"{place}: exit codes {codes}", children[0].log.read_text()[-4000:], sep="\n")
        counted += wrong(f"sqlite:///{place}/mlruns/mlflow.db", place, _POINTS, self._reported)
        return counted

    def _start(self, place: Path, processes: int) -> list[Child]:
        work = command(entry.sweep, "quant-sweep", ARGUMENTS)
        return [start(work, place, place / "log") for _ in range(processes)]

    def _place(self, name: str) -> Path:
        place = self._folder / name
        place.mkdir(parents=True)
        return place


def wrong(uri: str, place: Path, points: int, expected: tuple[bytes | None, str | None]) -> Counter[str]:
    """What must not be after a sweep whose last start nobody disturbed.

    Args:
        uri: of its store.
        place: its working folder; it printed into `log` there.
        points: how many it has.
        expected: what `reported` returned for a sweep that nobody disturbed.

    Returns:
        lost and twice, of points; left running, of runs; traceback, report differs.
    """
    log = (place / "log").read_text()
    counted = Counter(traceback=int("Traceback" in log))
    try:
        runs = read_runs(uri, "quant_sweep")
    except Exception:
        logging.exception("%s", place)
        return counted + Counter(lost=points)
    finished = runs[(runs["kind"] == "point") & (runs["status"] == "finished")]["key"]
    counted["lost"] = max(0, points - finished.nunique())
    counted["twice"] = len(finished) - finished.nunique()
    counted["left running"] = int((runs["status"] == "running").sum())
    counted["report differs"] = int(reported(place) != expected)
    if counted.total():
        print(place, dict(counted), _excerpt(log), sep="\n")
    return counted


def _excerpt(log: str) -> str:
    """The first traceback with what leads to it, or the end."""
    begin = log.find("Traceback")
    return log[-4000:] if begin < 0 else log[max(0, begin - 1000) : begin + 6000]


def _name(number: int) -> str:
    return signal.Signals(number).name


def _sent_names() -> list[str]:
    return [_name(number) for number in (signal.SIGKILL, *_POLITE)]


def sweep_here(folder: Path, arguments: Sequence[str]) -> None:
    """Run the command in this process, so that those that are forked have imported all; then forget what it made."""
    before, typed = Path.cwd(), sys.argv
    os.chdir(folder)
    try:
        contextvars.copy_context().run(command(sweep.main, "quant-sweep", arguments))
    finally:
        os.chdir(before)
        sys.argv = typed
        GlobalHydra.instance().clear()
        logging.getLogger().handlers.clear()
    modules = [module for name, module in list(sys.modules.items()) if name.startswith("quant_sweep")]
    for cached in (value for module in modules for value in vars(module).values() if hasattr(value, "cache_clear")):
        cached.cache_clear()


def reported(place: Path) -> tuple[bytes | None, str | None]:
    """The bytes of report.md, and points.csv without what a clock measured; None where there is none."""
    folder = place / "outputs" / "report" / "quant_sweep"
    report, table = folder / "report.md", folder / "points.csv"
    return (
        report.read_bytes() if report.exists() else None,
        str(pd.read_csv(table).drop(columns=_TIMINGS).to_csv()) if table.exists() else None,
    )
