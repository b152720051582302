"""What made the runs of a report: commands, versions, machines, and the jobs that never had a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from quant_sweep.report.failed_jobs import by_error, failed_jobs
from quant_sweep.report.points import Point

_FACTS = {
    "version.quant_sweep": "quant_sweep",
    "version.torch": "torch",
    "python": "Python",
    "cpu": "CPU",
    "cpu_capability": "instructions that torch uses",
    "git": "git commit of the working folder",
}
_MOST_COMMANDS = 20


@dataclass(frozen=True)
class Origin:
    """What made the runs.

    Attributes:
        rows: (what, value), each value that occurs.
        failed: (jobs, error) of the newest sweep.
    """

    rows: tuple[tuple[str, str], ...]
    failed: tuple[tuple[str, str], ...]


def read_origin(runs: pd.DataFrame, points: Sequence[Point]) -> Origin:
    """What tags of sweeps and runs say; runs of before they did say nothing.

    Args:
        runs: as `Tracker.runs()` gives them.
        points: that the report shows.
    """
    commands: list[str] = []
    if "tags.command" in runs:
        sweeps = runs[(runs["kind"] == "sweep") & runs["tags.command"].notna()]
        commands = list(dict.fromkeys(sweeps["tags.command"].astype(str)))[-_MOST_COMMANDS:]
    rows = [("command", command) for command in commands]
    for tag, name in _FACTS.items():
        rows += [(name, value) for value in sorted({point.tags[tag] for point in points if tag in point.tags})]
    return Origin(tuple(rows), tuple(by_error(failed_jobs(runs))))
