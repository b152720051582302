"""python -m torture: the counts of docs/reliability.md, in minutes.

python -m torture --kills 24 --creations 40 --damages 1000 --seed 0
"""

from __future__ import annotations

import argparse
import logging
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from torture.creation import count_creation_kills, count_first_openings, warm_up
from torture.damage import count_damages, kinds
from torture.memory import memory_of_points, points_of_networks, points_of_one_network
from torture.server import count_disturbed, killed, stopped
from torture.sweeps import Sweeps

MUST_NOT_BE = ("silent", "traceback", "ruined", "lost", "twice", "failed", "left running", "report differs")
MUST_NOT_BE += ("wrong exit code",)
_MEASURED = (1, 20, 50, 100, 250, 400)  # points


def main() -> int:
    """Print one line per count; 1 if something was that must not be."""
    parser = argparse.ArgumentParser(prog="python -m torture", description=__doc__)
    parser.add_argument("--kills", type=int, default=24, help="of sweeps, shared out over the numbers of --in")
    parser.add_argument("--in", type=int, nargs="+", default=[1, 2, 4], dest="teams", help="processes of a sweep")
    parser.add_argument("--polite", type=float, default=1 / 3, help="share of kills that are no SIGKILL")
    parser.add_argument("--creations", type=int, default=40, help="kills while the store is created")
    parser.add_argument("--damages", type=int, default=1000, help="of each kind of file")
    parser.add_argument("--processes", type=int, default=8, help="that open a store which is not there")
    parser.add_argument("--openings", type=int, default=1, help="how often they do")
    parser.add_argument("--servers", type=int, default=0, help="MLflow servers that are stopped, and as many killed")
    parser.add_argument("--points", type=int, default=0, help="of a multirun whose memory is measured")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.getLogger("quant_sweep").setLevel(logging.ERROR)  # each damage has its warning
    bad = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if options.creations:
            bad += _told("store creation, kills", count_creation_kills(folder, options.creations, options.seed))
        for index in range(options.openings if options.processes else 0):
            counts = count_first_openings(folder / f"openings{index}", options.processes, points=20)
            bad += _told(f"store opened first by {options.processes} processes, 20 points", counts)
        if options.damages:
            for kind in kinds(folder / "damage"):
                bad += _told(f"damages, {kind.name}", count_damages(kind, options.damages, options.seed))
        if options.kills:
            logging.getLogger("quant_sweep").setLevel(logging.INFO)
            sweeps = Sweeps(folder / "sweeps", options.polite)
            for processes in options.teams:
                counts = sweeps.count_kills(options.kills // len(options.teams), processes, options.seed + processes)
                bad += _told(f"sweeps in {processes} processes, kills", counts)
        if options.servers:
            for disturb in (stopped, killed):
                counts = count_disturbed(disturb, folder / disturb.__name__, options.servers, options.seed)
                bad += _told(f"servers {disturb.__name__}", counts)
        if options.points:
            _tell_memory(folder / "memory", options.points)
    return min(bad, 1)


def _tell_memory(folder: Path, points: int) -> None:
    warm_up(folder / "warm-up")
    for axes in (points_of_one_network, points_of_networks):
        measured = memory_of_points(folder / axes.__name__, axes(points))
        for index in (*_MEASURED, len(measured)):
            if index <= len(measured):
                memory, objects = measured[index - 1]
                print(f"{axes.__name__}, after {index}: {memory:.0f} MB, {objects} objects", flush=True)


def _told(what: str, counts: Mapping[str, int]) -> int:
    """Print the counts; how many there are of what must not be."""
    bad = sum(counts.get(name, 0) for name in MUST_NOT_BE)
    text = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()) if count)
    print(f"[{time.process_time():5.0f} s] {what}: {text}; {bad} bad", flush=True)
    return bad


if __name__ == "__main__":
    sys.exit(main())
