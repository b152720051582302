"""How near the engine comes to its kernels: its time over the sum of what each layer takes alone, at its best batch.

A layer alone finds its images in the cache or not as the batch wants it, and runs again and again on the same ones:
nothing that a network does between two layers is in the sum.
"""

from __future__ import annotations

import statistics

import torch

from benchmarks import subjects
from benchmarks.alternate import spread, timed
from benchmarks.result import save
from quant_sweep.engines import Int8
from quant_sweep.engines.lowering import Layer, lower
from quant_sweep.engines.onednn import kernel_of
from quant_sweep.observers import MinMax
from quant_sweep.quantization.quantize import quantize

_BATCH_SIZES = (8, 16, 32, 64, 128)
_REPETITIONS = 10


@torch.inference_mode()
def measure(name: str, rounds: int) -> None:
    """Write results/<CPU>/limit_<name>.json."""
    calibration = subjects.calibrated(subjects.network(name))
    quantized = quantize(calibration, bits=4, observer=MinMax(), engine=Int8())
    constants, qparams = calibration.graph.graph.constants, quantized.qparams
    lowered = lower(calibration.graph, qparams)
    kernels = {step: kernel_of(step, constants, qparams, overwrite=True) for step in lowered.steps}
    best: dict[str, float] = {}  # seconds an image
    for size in _BATCH_SIZES:
        values: dict[str, torch.Tensor] = {**constants, lowered.given.name: subjects.images(size)}
        for step, kernel in kernels.items():
            # A layer writes over its residual, which others are still to read.
            inputs = [values[value.name].clone() for value in step.inputs]
            values[step.out.name] = kernel(*inputs)
            if isinstance(step, Layer):
                took = min(timed(lambda k=kernel, i=inputs: k(*i)) for _ in range(_REPETITIONS)) / size
                best[step.out.name] = min(took, best.get(step.out.name, took))
    limit = sum(best.values())
    batch = subjects.images(1024)
    quantized.network(batch)
    seconds = [timed(lambda: quantized.network(batch)) / len(batch) for _ in range(rounds)]
    save(
        f"limit_{name}",
        {
            "network": name,
            "rounds": rounds,
            "kernels": len(best),
            "kernels_images_per_second": 1 / limit,
            "engine_images_per_second": 1 / statistics.median(seconds),
            "engine_over_kernels": spread([s / limit for s in seconds]),
        },
    )
