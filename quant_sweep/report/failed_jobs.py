"""Jobs of a sweep that failed before they had a run, as the run of the sweep tells of them."""

from __future__ import annotations

import json

import pandas as pd

FAILED_JOBS = "failed_jobs"  # tag of a sweep: [[job, error], ...] as JSON
_SHOWN = 3


def failed_jobs(runs: pd.DataFrame) -> list[tuple[str, str]]:
    """Of the newest sweep, each (job, error); what is no such list counts as none.

    Args:
        runs: as `Tracker.runs()` gives them.
    """
    column = f"tags.{FAILED_JOBS}"
    sweeps = runs[runs["kind"] == "sweep"]
    if column not in runs or sweeps.empty:
        return []
    try:
        found = json.loads(str(sweeps[column].iloc[-1]))
        return [(str(job), str(error)) for job, error in found]
    except (ValueError, TypeError):
        return []


def by_error(jobs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each error once: (which jobs, error)."""
    grouped: dict[str, list[str]] = {}
    for job, error in jobs:
        grouped.setdefault(error, []).append(job)
    return [(_named(names), error) for error, names in grouped.items()]


def _named(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return "; ".join(names[:_SHOWN]) + more
