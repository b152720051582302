"""What a measurement leaves behind: one JSON file, with the machine that it was made on."""

from __future__ import annotations

import json
import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def save(name: str, content: dict[str, Any]) -> None:
    """Write results/<name>.json."""
    RESULTS.mkdir(exist_ok=True)
    record = {"date": date.today().isoformat(), "machine": machine(), **content}
    (RESULTS / f"{name}.json").write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {RESULTS / name}.json")


def load(name: str) -> dict[str, Any] | None:
    """What `save` wrote; None where nothing was measured."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


def machine() -> dict[str, object]:
    """The CPU by name and by what its integer kernels can use, threads and versions."""
    flags = _cpu_lines("flags")
    return {
        "cpu": (_cpu_lines("model name") or [platform.processor()])[0],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [flag for flag in ("avx2", "avx512_vnni", "amx_int8") if flags and flag in flags[0].split()],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_lines(key: str) -> list[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]
