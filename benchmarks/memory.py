"""Peak resident memory of whole runs in large batches."""

from __future__ import annotations

from pathlib import Path

from benchmarks.commands import SweepCommand, few_images
from benchmarks.result import save

_BATCH = 256
_ENGINES = ("int8", "simulate")


def measure(name: str, cifar10: Path) -> None:
    """Write results/<CPU>/memory_<name>.json: MiB at the peak, calibration and evaluation both in batches of 256."""
    peaks = {}
    for calibration_images in (512, 2048):
        root = few_images(cifar10, calibration_images, 512)
        for engine in _ENGINES:
            command = SweepCommand(name, root, calibration_images)
            axes = [f"engine={engine}", "bits=4", f"batch_size={_BATCH}", f"calibration.batch_size={_BATCH}"]
            peaks[f"{engine}, {calibration_images} calibration images"] = command.run(axes)
    save(f"memory_{name}", {"network": name, "batch_size": _BATCH, "rounds": 1, "peak_mib": peaks})
