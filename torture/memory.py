"""The memory of a process that works on one point after another."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from quant_sweep.cli import entry, sweep
from torture.forked import command, start
from torture.sweeps import NETWORK

_BITS = (8, 6, 4, 3)


def points_of_one_network(points: int) -> list[str]:
    """Arguments of a multirun of that many points, a multiple of four."""
    return [f"seed=range({points // len(_BITS)})", f"bits={','.join(map(str, _BITS))}"]


def points_of_networks(points: int) -> list[str]:
    """The same, where each point has a network of its own, captured and calibrated for it alone."""
    return ["bits=4", "model.kwargs=" + ",".join(f"{{seed: {seed}}}" for seed in range(points))]


def memory_of_points(folder: Path, axes: Sequence[str]) -> list[tuple[float, int]]:
    """Run a multirun in one process.

    Returns:
        of each point, after its end: resident memory of the process in MB (2**20 bytes), number of Python's objects.
    """
    folder.mkdir(parents=True)
    measured = folder / "measured"

    def work() -> None:
        run_point = sweep.run_point

        def then_measured(*arguments: Any) -> Any:
            outcome = run_point(*arguments)
            with measured.open("a") as file:
                file.write(f"{resident_memory()} {len(gc.get_objects())}\n")
            return outcome

        sweep.run_point = then_measured
        command(entry.sweep, "quant-sweep", ["-m", *NETWORK, *axes])()

    child = start(work, folder, folder / "log")
    assert child.wait(seconds=3600) == 0, child.log.read_text()[-4000:]
    lines = (line.split() for line in measured.read_text().splitlines())
    return [(float(memory), int(objects)) for memory, objects in lines]


def resident_memory() -> float:
    """Of this process, in MB."""
    status = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in status if line.startswith("VmRSS:"))
    return int(line.split()[1]) / 1024
