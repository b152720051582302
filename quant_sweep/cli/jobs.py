"""The jobs of a multirun before they begin: how many there are, and a mistake that all of them share told once."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from quant_sweep.errors import InputError

Job = Sequence[str]  # the overrides of one job


def check_jobs(loader: ConfigLoader, multirun: DictConfig, check: Callable[[DictConfig], None]) -> int:
    """Refuse a multirun without jobs, and one whose jobs all fail for the same reason.

    Args:
        loader: composes the config of a job.
        multirun: the composed config, `hydra` included.
        check: raises InputError for a job that cannot run; takes its config, `hydra` included.

    Returns:
        the number of jobs.

    Raises:
        InputError: see above; the message has the number of jobs.
    """
    jobs = jobs_of(loader, multirun)
    if not jobs:
        typed = " ".join(map(str, multirun.hydra.overrides.task))
        raise InputError(f"{typed}: makes no job; a glob(...) or choice(...) in it matches nothing")

    def mistake(job: Job) -> str | None:
        try:
            check(loader.load_sweep_config(multirun, list(job)))
        except InputError as error:
            return str(error)
        return None

    first = mistake(jobs[0])
    if first is not None and all(mistake(job) == first for job in _others(jobs)):
        raise InputError(first if len(jobs) == 1 else f"{first}; it stops all {len(jobs)} jobs")
    return len(jobs)


def jobs_of(loader: ConfigLoader, multirun: DictConfig) -> list[list[str]]:
    """The overrides of each job, as Hydra's own sweeper makes them."""
    written = [f"{key}={value}" for key, value in (multirun.hydra.sweeper.get("params") or {}).items()]
    parser = OverridesParser.create(config_loader=loader)
    overrides = parser.parse_overrides([*written, *multirun.hydra.overrides.task])
    (jobs,) = BasicSweeper.split_arguments(overrides, None)
    return jobs


def _others(jobs: Sequence[Job]) -> list[Job]:
    """Jobs that differ from the first in one override each, every value once; and the last, which differs in all.

    What stops each of these stops all: a mistake of some values, or of two that exclude each other, spares one of them.
    """
    alone = [job for job in jobs if sum(a != b for a, b in zip(job, jobs[0], strict=True)) == 1]
    return [*alone, jobs[-1]]


def sweep_name(hydra: Any) -> str:
    """The name of the run above those of a multirun: the last part of `hydra.sweep.dir` where it is a time.

    Any other folder has a digest in its name, and one that a variable may decide has nothing else.
    """
    folder = Path(str(hydra.sweep.dir)).absolute()
    if re.fullmatch(r"[\d_-]+", folder.name):
        return folder.name
    written = str(OmegaConf.to_container(hydra.sweep, resolve=False)["dir"]).rpartition("/")[2]  # type: ignore[call-overload, index]
    shown = "sweep" if "${" in written else re.sub(r"[^A-Za-z0-9_-]", "_", folder.name)[:60]
    return f"{shown}-{hashlib.sha256(str(folder).encode()).hexdigest()[:8]}"
