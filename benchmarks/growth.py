"""How time grows with points, calibration images, test images, batch size and depth."""

from __future__ import annotations

from pathlib import Path

import torch

from benchmarks import subjects
from benchmarks.alternate import alternate, spread, timed
from benchmarks.commands import SweepCommand, all_points, few_images
from benchmarks.result import save
from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.engines import Int8
from quant_sweep.graph import Fusion, capture
from quant_sweep.observers import MinMax
from quant_sweep.quantization.quantize import quantize

_POINTS = {
    1: ["observer=mse", "bits=4"],
    5: ["observer=mse", "bits=8,6,5,4,3"],
    25: all_points(),
    125: [all_points()[0], "weight_bits=8,6,5,4,3", "activation_bits=8,6,5,4,3"],
}
_DEPTHS = ("resnet20", "resnet32", "resnet44", "resnet56", "resnet110")


def measure_points(name: str, cifar10: Path, test_images: int, most: int, rounds: int) -> None:
    """Write results/<CPU>/growth_points_<name>.json: seconds of the command for 1, 5, 25, ... points."""
    command = SweepCommand(name, few_images(cifar10, 256, test_images), 256)
    command.run(_POINTS[1])  # decodes the images
    counts = [count for count in _POINTS if count <= most]
    took: dict[int, list[float]] = {count: [] for count in counts}
    evaluation: list[float] = []
    for _ in range(rounds):
        for count in counts:
            took[count].append(timed(lambda c=count: command.run(_POINTS[c])))
            points = command.points()
            if len(points) != count:
                raise RuntimeError(f"{len(points)} of {count} points finished")
        evaluation.append(points["metrics.evaluation_seconds"].sum() / most)
    further = [(last - first) / (most - 1) for first, last in zip(took[1], took[most], strict=True)]
    save(
        f"growth_points_{name}",
        {
            "network": name,
            "test_images": test_images,
            "calibration_images": 256,
            "rounds": rounds,
            "seconds": {str(count): spread(values) for count, values in took.items()},
            "seconds_a_further_point": spread(further),
            "of_that_evaluation": spread(evaluation),
            "of_that_fixed": spread([point - part for point, part in zip(further, evaluation, strict=True)]),
        },
    )


@torch.no_grad()
def measure_images(rounds: int) -> None:
    """Write results/<CPU>/growth_images.json: calibration and evaluation of resnet20 against numbers of images."""
    calibration = subjects.calibrated(subjects.network("resnet20"))
    network = quantize(calibration, bits=4, observer=MinMax(), engine=Int8()).network
    images = subjects.images(8192)
    counts = (256, 1024, 4096, 8192)
    calibrating = alternate(
        {str(n): lambda n=n: calibrate(calibration.graph, images[:n].split(128)) for n in counts}, rounds
    )
    evaluating = alternate({str(n): lambda n=n: network(images[:n]) for n in counts}, rounds)
    sizes = (1, 4, 16, 64, 256, 1024)
    batches = {str(n): images[:1024].split(n) for n in sizes}
    in_batches = alternate({n: lambda n=n: [network(batch) for batch in batches[n]] for n in batches}, rounds)
    save(
        "growth_images",
        {
            "network": "resnet20",
            "rounds": rounds,
            "calibration_images_per_second": {n: spread([int(n) / s for s in calibrating[n]]) for n in calibrating},
            "test_images_per_second": {n: spread([int(n) / s for s in evaluating[n]]) for n in evaluating},
            "images_per_second_by_batch_size": {n: spread([1024 / s for s in in_batches[n]]) for n in in_batches},
        },
    )


@torch.no_grad()
def measure_depth(rounds: int) -> None:
    """Write results/<CPU>/growth_depth.json: images per second of the integer engine from resnet20 to resnet110."""
    images = subjects.images(1024)
    networks = {}
    for name in _DEPTHS:
        model = subjects.network(name)
        graph = capture(model, images[:2], Fusion.conv_bn_relu)
        calibration = calibrate(graph, [images[:32]])
        networks[name] = quantize(calibration, bits=4, observer=MinMax(), engine=Int8()).network
    seconds = alternate({name: lambda n=network: n(images) for name, network in networks.items()}, rounds)
    save(
        "growth_depth",
        {
            "rounds": rounds,
            "images_per_second": {name: spread([len(images) / s for s in seconds[name]]) for name in networks},
        },
    )
