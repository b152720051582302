"""Commands let threads sleep where they wait, before torch is there; a person's own choice stays."""

import os
import subprocess
import sys

import pytest

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
