"""A place to type commands: in this process, which is quick, or as a process of its own."""

import contextlib
import contextvars
import io
import itertools
import logging
import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import pandas as pd
import pytest
from configured import RESNET8
from hydra.core.global_hydra import GlobalHydra

from quant_sweep.cli import allocate, explain, report, sensitivity, sweep, train, ui
from quant_sweep.sweep import build, prepare, quantize_model
from quant_sweep.sweep.content_key import code_version
from quant_sweep.tracking import read_runs
from quant_sweep.tracking.failures import prepare_mlflow
from torture import forked

COMMANDS: dict[str, ModuleType] = {
    "quant-sweep": sweep,
    "quant-sweep-train": train,
    "quant-sweep-report": report,
    "quant-sweep-explain": explain,
    "quant-sweep-sensitivity": sensitivity,
    "quant-sweep-ui": ui,
    "quant-sweep-allocate": allocate,
}
CACHES = (
    build._data_set,
    build._trained,
    quantize_model._calibration,
    prepare.draw_calibration_images,
    code_version,
)


_numbers = itertools.count()


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

    def start(self, command: str, *arguments: str) -> forked.Child:
        """Run a command here in a child process, which has imported what this one has."""
        prepare_mlflow()
        log = self.folder / f"{next(_numbers)}.log"

        def work() -> None:
            GlobalHydra.instance().clear()
            forked.command(COMMANDS[command].main, command, arguments)()

        return forked.start(work, self.folder, log)

    def runs(self, kind: str = "point", experiment: str = "quant_sweep") -> pd.DataFrame:
        """What the store holds."""
        runs = read_runs(f"sqlite:///{self.folder}/mlruns/mlflow.db", experiment)
        return runs[runs["kind"] == kind].reset_index(drop=True)

    def report(self, name: str = "report.md", experiment: str = "quant_sweep") -> Path:
        return self.folder / "outputs" / "report" / experiment / name


def quick(checkpoint: Path) -> list[str]:
    """Arguments of a run of `RESNET8` that takes a moment."""
    return [*RESNET8, f"model.checkpoint={checkpoint}", "calibration.images=64", "device=cpu"]
