"""The command as a person runs it, in a folder of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import mkdtemp

import pandas as pd

from benchmarks import subjects
from quant_sweep.models import write_checkpoint
from quant_sweep.tracking import read_runs

OBSERVERS = ("minmax", "moving_average", "hist", "fake_hist", "mse")
BITS = (8, 6, 5, 4, 3)


@dataclass
class SweepCommand:
    """`quant-sweep -m` over one network and one image folder; each call starts from nothing but decoded images.

    And in a new folder: MLflow keeps a database open that it has read, and would read it again after it was deleted.
    """

    network: str
    root: Path  # cifar10/train/<class>/*, cifar10/test/<class>/*
    calibration_images: int
    folder: Path = field(default_factory=lambda: Path(mkdtemp(prefix="quant_sweep_")))
    _place: Path = field(init=False)  # where the last sweep ran

    def __post_init__(self) -> None:
        write_checkpoint(self.folder / "weights.safetensors", subjects.network(self.network).state_dict(), {})

    def run(self, axes: Iterable[str]) -> float:
        """Sweep over `axes`, as `bits=8,4`; returns the peak of its resident memory in MiB."""
        shutil.rmtree(self.folder / "cache" / "summaries", ignore_errors=True)
        self._place = Path(mkdtemp(dir=self.folder))
        command = [Path(sys.executable).with_name("quant-sweep"), "-m", f"model={self.network}", *axes]
        command += [f"model.checkpoint={self.folder}/weights.safetensors", f"cache_dir={self.folder}/cache"]
        command += ["data=imagefolder", f"data.root={self.root}", f"calibration.images={self.calibration_images}"]
        process = subprocess.Popen(command, cwd=self._place, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        if status:
            raise RuntimeError(f"{' '.join(map(str, command))}: status {status}")
        return usage.ru_maxrss / 1024

    def points(self) -> pd.DataFrame:
        """The runs that the last sweep recorded."""
        runs = read_runs(f"sqlite:///{self._place}/mlruns/mlflow.db", "quant_sweep")
        return runs[(runs["kind"] == "point") & (runs["status"] == "finished")]


def all_points() -> list[str]:
    """Five observers by five widths."""
    return [f"observer={','.join(OBSERVERS)}", f"bits={','.join(map(str, BITS))}"]


def few_images(root: Path, train: int, test: int) -> Path:
    """A copy of an image folder with as many images, the same number of each class."""
    place = Path(mkdtemp(prefix="few_images_"))
    for split, count in (("train", train), ("test", test)):
        classes = sorted(path for path in (root / split).iterdir() if path.is_dir())
        for category in classes:
            target = place / split / category.name
            target.mkdir(parents=True)
            for image in sorted(category.iterdir())[: -(-count // len(classes))]:
                shutil.copy(image, target)
    return place
