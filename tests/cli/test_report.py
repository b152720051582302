"""The report's command on its own: what it loads. What it shows is in `test_sweep.py`."""

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    "program",
    [
        "import quant_sweep.cli.report",
        "import quant_sweep.cli.report as report; sys.argv = ['quant-sweep-report', '--cfg', 'job']; report.main()",
    ],
    ids=["import", "compose"],
)
def test_it_loads_no_torch(program: str) -> None:
    program = f"import sys; {program}; sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
