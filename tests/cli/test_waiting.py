"""Commands let threads sleep where they wait, before torch is there; a person's own choice stays."""

import os
import subprocess
import sys

import pytest

from quant_sweep.cli.waiting import cores_divided

PROGRAM = """
import os, sys
import quant_sweep.cli
assert "torch" not in sys.modules
print(os.environ.get("OMP_WAIT_POLICY"))
"""


@pytest.mark.parametrize(
    ("chosen", "found"),
    [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE"), ({"GOMP_SPINCOUNT": "1000"}, "None")],
)
def test_waiting(chosen: dict[str, str], found: str) -> None:
    ours = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
    environment = {name: value for name, value in os.environ.items() if name not in ours} | chosen
    printed = subprocess.run([sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True)
    assert printed.stdout.strip() == found, printed.stderr


LOCAL = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.LocalLauncher"
BASIC = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"


@pytest.mark.parametrize(
    ("launcher", "jobs", "chosen", "found"),
    [
        (LOCAL, 2, None, "4"),
        (LOCAL, 3, None, "2"),
        (LOCAL, 20, None, "1"),
        (LOCAL, 0, None, None),
        (LOCAL, 2, "7", "7"),
        (BASIC, 2, None, None),
    ],
)
def test_jobs_that_start_at_once_share_the_cores(
    monkeypatch: pytest.MonkeyPatch, launcher: str, jobs: int, chosen: str | None, found: str | None
) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if chosen is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", chosen)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    with cores_divided(launcher, jobs):
        assert os.environ.get("OMP_NUM_THREADS") == found
    assert os.environ.get("OMP_NUM_THREADS") == chosen
