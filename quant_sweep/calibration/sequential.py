"""The original study's calibration: each tensor is observed with everything upstream already quantized.

Every batch runs through the quantized network: weights lie on their grids from the start, and each activation quantizer
first adds the batch to its summary, then quantizes it with what the observer makes of all batches so far. The answer
for a tensor depends on the grids chosen upstream, so each observer and bit width needs a pass of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import final

import torch
import torch.nn.functional as F
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import Calibration, choose_weight_qparams, observe
from quant_sweep.errors import InputError
from quant_sweep.graph import FakeQuantize, Fusion, Graph, QuantGraph, insert_at_quantizers, weights_on_grid
from quant_sweep.graph.operations import BatchNorm, Operation
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
        batches: inputs, float32 (n, ...) each, on the device to use.
        specs: the grid of every tensor, by its name; one without stays in float.
        observer, weight_observer: choose the ranges.
        update_batch_norm: normalise with each batch's own statistics on the way and re-estimate the running ones, as
            training would.

    Returns:
        The calibration, whose graph has the re-estimated statistics, and the grids after the last batch.

    Raises:
        InputError: there is no batch; a tensor holds NaN or infinity; or update_batch_norm with a fusion that folds
            BatchNorm away, or with a BatchNorm whose momentum is None.
    """
    if update_batch_norm and graph.fusion is not Fusion.none:
        raise InputError(
            f"calibration.update_batch_norm=true: fusion={graph.fusion.value} folds BatchNorm away; use fusion=none"
        )
    weights = choose_weight_qparams(graph, specs, weight_observer)
    named = [q.name for q in graph.activations if q.name in specs]
    quantizers = {name: _ObserveThenQuantize(name, specs[name], observer) for name in named}
    rounded = weights_on_grid(graph, weights)
    norms = _reestimated(rounded) if update_batch_norm else {}
    nodes = tuple(replace(node, operation=norms.get(node.name, node.operation)) for node in rounded.nodes)
    network = insert_at_quantizers(graph, quantizers, replace(rounded, nodes=nodes))
    for batch in batches:
        network.to(batch.device)(batch)
    calibration = Calibration(
        _with_statistics(graph, norms), {name: quantizer.collector.summary() for name, quantizer in quantizers.items()}
    )
    return calibration, weights | {name: quantizer.qparams() for name, quantizer in quantizers.items()}


def _reestimated(graph: Graph) -> dict[str, _ReestimatingBatchNorm]:
    """An operation for each BatchNorm, by its node's name; calls of one and the same share their statistics."""
    statistics: dict[str, tuple[Tensor, Tensor]] = {}
    found = {}
    for node in graph.nodes:
        if isinstance(node.operation, BatchNorm):
            if node.operation.momentum is None:
                raise InputError(
                    f"calibration.update_batch_norm=true: {node.name} is made by a BatchNorm with momentum=None, which "
                    "weighs a batch by how many the training saw; give it a momentum"
                )
            mean, variance = node.inputs[3:]
            shared = statistics.setdefault(mean, (graph.constants[mean].clone(), graph.constants[variance].clone()))
            found[node.name] = _ReestimatingBatchNorm(node.operation, *shared)
    return found


def _with_statistics(graph: QuantGraph, norms: Mapping[str, _ReestimatingBatchNorm]) -> QuantGraph:
    """The graph with the statistics that were estimated; the very graph given where none were."""
    if not norms:
        return graph
    constants = dict(graph.graph.constants)
    for name, norm in norms.items():
        mean, variance = graph.graph.node[name].inputs[3:]
        constants |= {mean: norm.mean.cpu(), variance: norm.variance.cpu()}
    return replace(graph, graph=replace(graph.graph, constants=constants))


@final
@dataclass(frozen=True, eq=False)
class _ReestimatingBatchNorm(Operation):
    """Normalises with each batch's own statistics and estimates the running ones, as training does."""

    norm: BatchNorm
    mean: Tensor
    variance: Tensor

    def __call__(self, *inputs: Tensor) -> Tensor:
        x, gamma, beta, *_ = inputs
        assert self.norm.momentum is not None
        mean, variance = (statistic.to(x.device) for statistic in (self.mean, self.variance))
        result = F.batch_norm(x, mean, variance, gamma, beta, True, self.norm.momentum, self.norm.eps)
        self.mean.copy_(mean), self.variance.copy_(variance)
        return result


@final
class _ObserveThenQuantize:
    """Adds what passes to its summary, and passes it on as the grid of that moment would have it."""

    def __init__(self, name: str, spec: QuantSpec, observer: Observer) -> None:
        self.name, self.spec, self.observer = name, spec, observer
        self.collector = Collector()

    def qparams(self) -> QParams:
        return observe(self.collector.summary(), self.spec, self.observer)

    def __call__(self, x: Tensor) -> Tensor:
        try:
            self.collector.update(x)
        except InputError as error:
            raise InputError(f"{self.name}: {error}") from error
        quantized: Tensor = FakeQuantize(self.qparams())(x)
        return quantized
