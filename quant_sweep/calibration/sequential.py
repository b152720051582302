"""The original study's calibration: each tensor is observed with everything upstream already quantized.

Every batch runs through the quantized network: weights lie on their grids from the start, and each activation point
first adds the batch to its summary, then quantizes it with what the observer makes of all batches so far. The answer
for a tensor depends on the grids chosen upstream, so each observer and bit width needs a pass of its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import Calibration, choose_weight_qparams, observe
from quant_sweep.errors import InputError
from quant_sweep.graph import FakeQuantize, Fusion, QuantGraph, insert_at_points, put_weights_on_grid
from quant_sweep.histograms.summary import Collector
from quant_sweep.observers import Observer
from quant_sweep.runtime.full_precision import full_precision


@torch.no_grad()
@full_precision()
def calibrate_sequentially(
    graph: QuantGraph,
    batches: Iterable[Tensor],
    specs: Mapping[str, QuantSpec],
    observer: Observer,
    weight_observer: Observer,
    update_batch_norm: bool = False,
) -> tuple[Calibration, dict[str, QParams]]:
    """Choose all grids in one pass through the network that they quantize.

    Args:
        graph: the network.
        batches: normalised images, float32 (n, channels, height, width) each, on the device to use.
        specs: the grid of every tensor, by its name.
        observer, weight_observer: choose the ranges.
        update_batch_norm: normalise with each batch's own statistics on the way and re-estimate the running ones, as
            training would.

    Returns:
        The calibration, whose graph has the re-estimated statistics, and the grids after the last batch.

    Raises:
        InputError: there is no batch; a tensor holds NaN or infinity; or update_batch_norm with a fusion that folds
            BatchNorm away.
    """
    if update_batch_norm:
        graph = _copy_for_reestimation(graph)
    weights = choose_weight_qparams(graph, specs, weight_observer)
    points = {p.name: _ObserveThenQuantize(p.name, specs[p.name], observer) for p in graph.activations}
    quantized = insert_at_points(graph, points)
    put_weights_on_grid(quantized, graph, weights)
    norms = {name: m for name, m in quantized.named_modules() if isinstance(m, _BatchNorm)}
    if update_batch_norm:
        for norm in norms.values():
            norm.train()
    for batch in batches:
        quantized.to(batch.device)(batch)
    if update_batch_norm:
        for name, norm in norms.items():
            graph.module.get_submodule(name).load_state_dict(norm.state_dict())
    calibration = Calibration(graph, {name: point.collector.summary() for name, point in points.items()})
    return calibration, weights | {name: point.qparams() for name, point in points.items()}


def _copy_for_reestimation(graph: QuantGraph) -> QuantGraph:
    if graph.fusion is not Fusion.none:
        raise InputError(
            f"calibration.update_batch_norm=true: fusion={graph.fusion.value} folds BatchNorm away; use fusion=none"
        )
    return QuantGraph(copy.deepcopy(graph.module), graph.fusion, graph.activations, graph.weights)


class _ObserveThenQuantize(nn.Module):
    """Adds what passes to its summary, and passes it on as the grid of that moment would have it."""

    def __init__(self, name: str, spec: QuantSpec, observer: Observer) -> None:
        super().__init__()
        self.name, self.spec, self.observer = name, spec, observer
        self.collector = Collector()

    def qparams(self) -> QParams:
        return observe(self.collector.summary(), self.spec, self.observer)

    def forward(self, x: Tensor) -> Tensor:
        try:
            self.collector.update(x)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        quantized: Tensor = FakeQuantize(self.qparams())(x)
        return quantized
