"""Collect once, search many: from images to summaries, from summaries to grids.

`calibrate` runs the float network once over the calibration images and leaves a summary of every tensor that will be
quantized; `choose_qparams` then answers any observer at any bit width from them. The original study's way, where the
answer for a tensor depends on the grids chosen upstream, is in `calibrate_sequentially.py`.

On a CPU each thread takes some images of a batch through the network and counts what they leave: histograms of parts
merge exactly, and counting a tensor while it is in the cache costs little.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import qparams_from_range
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph, insert_at_quantizers
from quant_sweep.histograms.summary import Collector, Summary, summarize_channels
from quant_sweep.observers import Observer
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.in_cache import images_that_stay_in_cache
from quant_sweep.runtime.threads import FEWEST_IMAGES, Workers

# A channel of a weight has few values, so few bins already part them.
_WEIGHT_BINS = 1024
# Of what a layer makes of the images that each thread takes through the network together.
_CACHED_BYTES = 2**22


@dataclass(frozen=True)
class Calibration:
    """A network and what calibration saw of it.

    Attributes:
        graph: the float network with its quantizers.
        summaries: by the name of each activation quantizer.
        batches: the inputs, for a recovery to read again; None where they could be read only once.
    """

    graph: QuantGraph
    summaries: Mapping[str, Summary]
    batches: Sequence[Tensor] | None = None


@torch.no_grad()
@full_precision()
def calibrate(graph: QuantGraph, batches: Iterable[Tensor]) -> Calibration:
    """One float pass.

    Args:
        graph: the network.
        batches: inputs, float32 (n, ...) each, on the device to use. A list or tuple of them is kept in the result.

    Raises:
        InputError: there is no batch, or a tensor holds NaN or infinity (the message names it).
    """
    recorders = {quantizer.name: _Record(quantizer.name) for quantizer in graph.activations}
    network: Callable[[Tensor], object] | None = None
    workers, at_once = Workers(), 1
    for batch in batches:
        if network is None:
            # Each thread has a switch of its own for gradients.
            network = torch.no_grad()(insert_at_quantizers(graph, recorders).to(batch.device))
            at_once = _images_at_once(graph, batch)
        workers.map(network, batch.split(at_once))
        for recorder in recorders.values():
            recorder.collector.end_batch()
    summaries = {name: recorder.collector.summary() for name, recorder in recorders.items()}
    return Calibration(graph, summaries, batches if isinstance(batches, list | tuple) else None)


def _images_at_once(graph: QuantGraph, batch: Tensor) -> int:
    """Independent of the number of threads, so that they do not change what is summed in which order."""
    if batch.device.type != "cpu" or len(batch) == 0:
        return max(len(batch), 1)
    return images_that_stay_in_cache(graph.graph.largest_bytes_an_image, _CACHED_BYTES, FEWEST_IMAGES)


def choose_qparams(
    calibration: Calibration, specs: Mapping[str, QuantSpec], observer: Observer, weight_observer: Observer
) -> dict[str, QParams]:
    """Grids for the activations and weights named in `specs`, from summaries alone.

    Raises:
        InputError: a weight holds NaN or infinity (the message names it).
    """
    weights = choose_weight_qparams(calibration.graph, specs, weight_observer)
    return choose_activation_qparams(calibration, specs, observer) | weights


def choose_activation_qparams(
    calibration: Calibration, specs: Mapping[str, QuantSpec], observer: Observer
) -> dict[str, QParams]:
    """Grids for all activations that have one, by tensor name."""
    found = calibration.summaries.items()
    return {name: observe(summary, specs[name], observer) for name, summary in found if name in specs}


def choose_weight_qparams(
    graph: QuantGraph, specs: Mapping[str, QuantSpec], weight_observer: Observer
) -> dict[str, QParams]:
    """Grids for all weights that have one, by tensor name; raises as `choose_qparams`."""
    qparams = {}
    for quantizer in (q for q in graph.weights if q.name in specs):
        weight, spec = graph.graph.constants[quantizer.name], specs[quantizer.name]
        try:
            summary = summarize_weight(weight, spec.channel_axis)
        except InputError as error:
            raise InputError(f"{quantizer.name}: {error}") from error
        qparams[quantizer.name] = observe(summary, spec, weight_observer)
    return qparams


def summarize_weight(weight: Tensor, channel_axis: int | None) -> Summary:
    """What an observer is given of a weight; raises as `summarize_channels`."""
    return summarize_channels(weight, channel_axis, _WEIGHT_BINS)


def observe(summary: Summary, spec: QuantSpec, observer: Observer) -> QParams:
    """The grid that `observer` wants for one tensor."""
    lo, hi = observer.range(summary, spec)
    return qparams_from_range(lo, hi, spec) if spec.channel_axis is not None else qparams_from_range(lo[0], hi[0], spec)


@final
class _Record:
    """Summarizes what passes, and passes it on."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.collector = Collector()

    def __call__(self, x: Tensor) -> Tensor:
        try:
            self.collector.add(x)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        return x
