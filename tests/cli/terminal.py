"""A place to type commands: in this process, which is quick, or as a process of its own."""

import contextlib
import contextvars
import io
import logging
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from hydra.core.global_hydra import GlobalHydra

from quant_sweep.cli import allocate, explain, report, sensitivity, sweep, train
from quant_sweep.sweep import build, prepare, quantize_model
from quant_sweep.sweep.content_key import code_version
from quant_sweep.tracking import read_runs

COMMANDS: dict[str, ModuleType] = {
    "quant-sweep": sweep,
    "quant-sweep-train": train,
    "quant-sweep-report": report,
    "quant-sweep-explain": explain,
    "quant-sweep-sensitivity": sensitivity,
    "quant-sweep-allocate": allocate,
}
CACHES = (
    build._data_set,
    build._trained,
    quantize_model._calibration,
    prepare.draw_calibration_images,
    code_version,
)


@dataclass(frozen=True)
class Outcome:
    """What a command left on the terminal."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Workspace:
    """A working folder with its own store."""

    folder: Path

    def type(self, command: str, *arguments: str) -> Outcome:
        """Run a command here, in this process."""
        out, err, level = io.StringIO(), io.StringIO(), logging.getLogger().level
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            patch.chdir(self.folder)
            patch.setattr(sys, "argv", [command, *arguments])
            patch.setenv("HYDRA_FULL_ERROR", "1")
            try:
                contextvars.copy_context().run(COMMANDS[command].main)
                code = 0
            except SystemExit as end:
                code = int(end.code or 0)
            except Exception as error:
                code = 1
                err.write(f"Traceback: {error!r}")
            finally:
                GlobalHydra.instance().clear()
                logging.getLogger().handlers.clear()  # Hydra's own, which write to this terminal
                logging.getLogger().setLevel(level)
                for logger in logging.root.manager.loggerDict.values():  # a database that is set up switches them off
                    if isinstance(logger, logging.Logger):
                        logger.disabled = False
                for cache in CACHES:
                    cache.cache_clear()
        return Outcome(code, out.getvalue(), err.getvalue())

    def start(self, command: str, *arguments: str, prelude: str = "") -> subprocess.Popen[str]:
        """Run a command here as a process of its own, after the statements of `prelude`."""
        return subprocess.Popen(
            [sys.executable, "-c", f"{prelude}\nfrom {COMMANDS[command].__name__} import main\nmain()", *arguments],
            cwd=self.folder,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def runs(self, kind: str = "point", experiment: str = "quant_sweep") -> pd.DataFrame:
        """What the store holds."""
        runs = read_runs(f"sqlite:///{self.folder}/mlruns/mlflow.db", experiment)
        return runs[runs["kind"] == kind].reset_index(drop=True)

    def report(self, name: str = "report.md", experiment: str = "quant_sweep") -> Path:
        return self.folder / "outputs" / "report" / experiment / name


def quick(checkpoint: Path) -> list[str]:
    """Arguments of a run that takes a moment."""
    return [f"model.checkpoint={checkpoint}", "calibration.images=64", "device=cpu"]
