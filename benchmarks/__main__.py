"""`python -m benchmarks`: measure, write results/<CPU>/*.json, and the page from them."""

from __future__ import annotations

import argparse
from pathlib import Path

from benchmarks import calibration, evaluation, growth, limit, memory, sweep, table

_PARTS = ("evaluation", "limit", "calibration", "growth", "memory", "sweep", "table")


def main() -> None:
    """Measure the parts asked for, one after the other."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(_PARTS)}; all if none is given")
    parser.add_argument("--networks", nargs="+", default=["resnet20", "resnet50"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--cifar10", type=Path, help="a folder with train/<class>/* and test/<class>/*; sweeps need it")
    asked = parser.parse_args()
    parts = asked.parts or _PARTS
    unknown = set(parts) - set(_PARTS)
    if unknown:
        parser.error(f"{', '.join(sorted(unknown))}: there are {', '.join(_PARTS)}")
    if asked.cifar10 is None and {"sweep", "growth", "memory"} & set(parts):
        parser.error(
            "sweep, growth and memory need --cifar10 FOLDER, with FOLDER/train/<class>/* and FOLDER/test/<class>/*"
        )
    for name in asked.networks:
        small = name != "resnet50"
        if "evaluation" in parts:
            evaluation.measure(name, asked.rounds)
        if "limit" in parts:
            limit.measure(name, asked.rounds)
        if "calibration" in parts:
            calibration.measure(name, batch_size=128 if small else 64, batches=8 if small else 2, rounds=asked.rounds)
        if "growth" in parts:
            images, most = (2000, 125) if small else (200, 25)
            growth.measure_points(name, asked.cifar10, images, most, asked.rounds)
        if "memory" in parts and not small:
            memory.measure(name, asked.cifar10)
        if "sweep" in parts:
            images, tested, best_batch = (1000, 10_000, 64) if small else (100, 200, 16)
            sweep.measure(name, asked.cifar10, images, tested, best_batch, asked.rounds)
    if "growth" in parts:
        growth.measure_images(asked.rounds)
        growth.measure_depth(asked.rounds)
    table.write()


if __name__ == "__main__":
    main()
