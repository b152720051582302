"""Who made a run, with what and on what: tags that MLflow's pages show, and ours.

Looked up once in a process. What cannot be found out is left out.
"""

from __future__ import annotations

import contextlib
import functools
import getpass
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path

from quant_sweep.errors import printable

_PACKAGES = ("quant-sweep", "torch", "mlflow")
_GIT_SECONDS = 2.0
# What others may read of a command: no password of an address.
_PASSWORD = re.compile(r"(?<=://)[^/@\s]*@")


@functools.cache
def provenance() -> Mapping[str, str]:
    """Tags: user, program and git commit as MLflow names them; `git`, `cpu`, `python` and `version.<package>`."""
    tags = {
        "mlflow.source.name": Path(sys.argv[0]).name or "python",
        "mlflow.source.type": "LOCAL",
        "python": platform.python_version(),
        **_git(),
        **_versions(),
    }
    with contextlib.suppress(OSError, KeyError, ImportError):  # a container may run as a user without a name
        tags["mlflow.user"] = getpass.getuser()
    if cpu := _cpu():
        tags["cpu"] = cpu
    return tags


def command() -> str:
    """What was typed to start this program; a password in an address is left out."""
    typed = [Path(sys.argv[0]).name, *sys.argv[1:]]
    return printable(" ".join(_quoted(_PASSWORD.sub("", part)) for part in typed))


def _quoted(part: str) -> str:
    """As a shell takes it, and with as few quotes as a person would type."""
    return part if re.fullmatch(r"[\w@%+=:,./\-\[\]]+", part) else "'" + part.replace("'", "'\"'\"'") + "'"


def _git() -> dict[str, str]:
    """The commit of the working folder, and whether files that git knows differ from it."""
    commit = _output("git", "rev-parse", "HEAD")
    if not commit:
        return {}
    changes = _output("git", "-c", "core.fsmonitor=false", "status", "--porcelain", "--untracked-files=no")
    state = "unknown" if changes is None else "changed" if changes else "clean"
    return {"mlflow.source.git.commit": commit, "git": f"{commit[:12]} ({state})"}


def _output(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError, UnicodeDecodeError):
        return None
    return done.stdout.strip()


def _versions() -> dict[str, str]:
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            versions[f"version.{package.replace('-', '_')}"] = metadata.version(package)
    return versions


def _cpu() -> str:
    """The processor's own name, as Linux tells it."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return printable(value.strip())
    return platform.processor()
