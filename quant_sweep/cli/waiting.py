"""How torch's threads wait for each other."""

from __future__ import annotations

import os

_CHOICES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


def wait_passively() -> None:
    """Let threads sleep where they wait, unless the environment says how they are to wait.

    OpenMP's threads spin, which is a little faster on a machine of one's own: a fifth in float32, nothing on integer
    kernels. Beside another process each takes the core that the other's thread waits for, and both become several
    times slower. OpenMP reads the environment when torch is imported.
    """
    if not any(choice in os.environ for choice in _CHOICES):
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
