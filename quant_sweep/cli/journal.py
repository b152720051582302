"""What became of each job of a multirun: one line each in a file that all its processes write.

Hydra tells a multirun neither when a job of another process ends nor why one failed. The file lies with the locks,
which the processes share, and goes when the multirun ends.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

Status = Literal["done", "skipped", "failed"]


@dataclass(frozen=True)
class Entry:
    """One job.

    Attributes:
        job: its overrides.
        text: what to tell, one line: its result, or its error.
        seconds: that it took.
        run_id: of its point; empty where it failed.
    """

    job: tuple[str, ...]
    status: Status
    text: str
    seconds: float
    run_id: str = ""


@dataclass(frozen=True)
class Journal:
    """The file of one multirun."""

    path: Path

    @classmethod
    def of(cls, lock_dir: Path, sweep: str) -> Journal:
        """That of the multirun `sweep`, in the folder of the locks."""
        return cls(lock_dir.absolute() / f"sweep-{sweep}.jobs")

    def add(self, entry: Entry) -> None:
        """Append an entry, in one write; where the folder cannot be written, nobody is told."""
        with contextlib.suppress(OSError), self.path.open("ab", buffering=0) as file:
            file.write(json.dumps(asdict(entry)).encode() + b"\n")

    def read(self) -> list[Entry]:
        """All entries that are whole, oldest first."""
        try:
            lines = self.path.read_bytes().split(b"\n")[:-1]
        except OSError:
            return []
        return [Entry(**{**entry, "job": tuple(entry["job"])}) for entry in map(json.loads, lines)]

    def remove(self) -> None:
        """Take the file away."""
        with contextlib.suppress(OSError):
            self.path.unlink(missing_ok=True)


def differing(entries: Sequence[Entry], job: Sequence[str]) -> str:
    """The overrides of a job that not all jobs share, as they are typed; all of them where nothing differs."""
    shared = set.intersection(*(set(entry.job) for entry in entries)) if entries else set()
    return " ".join([part for part in job if part not in shared] or job)
