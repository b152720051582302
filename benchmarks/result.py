"""What a measurement leaves behind: one JSON file, with the machine that it was made on."""

from __future__ import annotations

import json
import os
import platform
import re
from datetime import date
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def save(name: str, content: dict[str, Any]) -> None:
    """Write results/<CPU>/<name>.json."""
    record = {"date": date.today().isoformat(), "machine": _machine(), **content}
    folder = RESULTS / re.sub(r"[^a-z0-9]+", "-", _cpu().lower()).strip("-")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}.json"
    path.write_text(json.dumps(record, indent=1) + "\n")
    print(f"wrote {path}")


def results(prefix: str) -> list[dict[str, Any]]:
    """What `save` wrote under names that begin so: the same of every CPU one after the other."""
    paths = sorted(RESULTS.glob(f"*/{prefix}*.json"), key=lambda path: (path.stem, path.parent))
    return [json.loads(path.read_text()) for path in paths]


def _machine() -> dict[str, object]:
    """The CPU by name and by what its integer kernels can use, threads and versions."""
    flags = _cpu_lines("flags")
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": [flag for flag in ("avx2", "avx512_vnni", "amx_int8") if flags and flag in flags[0].split()],
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu() -> str:
    return (_cpu_lines("model name") or [platform.processor() or platform.machine()])[0]


def _cpu_lines(key: str) -> list[str]:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return [line.split(":", 1)[1].strip() for line in lines if line.startswith(key)]
