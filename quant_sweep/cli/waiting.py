"""How torch's threads wait for each other, and how many a job has."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

# Starts all jobs at once on this machine, each in a process of its own, and leaves the cores to them.
_ALL_AT_ONCE = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
_THREADS = "OMP_NUM_THREADS"
_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_passively() -> None:
    """Let threads sleep where they wait, unless the environment says how they are to wait.

    OpenMP's threads spin, which is a little faster on a machine of one's own: a fifth in float32, nothing on integer
    kernels. Beside another process each takes the core that the other's thread waits for, and both become several
    times slower. OpenMP reads the environment when torch is imported.
    """
    if not any(choice in os.environ for choice in _CHOICES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


@contextlib.contextmanager
def cores_divided(launcher: str, jobs: int) -> Iterator[None]:
    """Meanwhile, have jobs that a launcher starts all at once share the cores, unless the environment says how many
    threads they have; their processes inherit it.

    Args:
        launcher: class path, as hydra.launcher has it.
        jobs: how many are started.
    """
    if launcher != _ALL_AT_ONCE or _THREADS in os.environ or jobs < 1:
        yield
        return
    os.environ[_THREADS] = str(max(len(os.sched_getaffinity(0)) // jobs, 1))
    try:
        yield
    finally:
        del os.environ[_THREADS]
