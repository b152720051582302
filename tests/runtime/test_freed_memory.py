"""Freed blocks go back to the system where the C library can do that."""

import platform
from pathlib import Path

import pytest
import torch

from quant_sweep.runtime.freed_memory import give_back


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="of glibc's heap")
def test_freed_blocks_below_a_later_one_go_back() -> None:
    torch.zeros(30_000_000, dtype=torch.uint8)  # from now on glibc serves blocks of this size from its heap
    blocks = [torch.zeros(1_000_000, dtype=torch.uint8) for _ in range(400)]
    del blocks[:-1]  # the last one lies on top of them
    kept = _resident_bytes()
    give_back()
    assert _resident_bytes() < kept - 200e6
    assert len(blocks[0]) == 1_000_000


def test_elsewhere_it_does_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("quant_sweep.runtime.freed_memory._malloc_trim", lambda: None)
    give_back()


def _resident_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096
