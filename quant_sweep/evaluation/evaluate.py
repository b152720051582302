"""A runnable network and samples -> what a metric says of it, class by sample, seconds; beside the float network.

`batches` runs the network, `scoring` keeps a few numbers of every sample; outputs are kept of the float network alone.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quant_sweep.data import DataSet, ImageSet
from quant_sweep.evaluation.batches import over_batches
from quant_sweep.evaluation.metrics import Metric, Top1
from quant_sweep.evaluation.scoring import Evaluation, Original, Scoring
from quant_sweep.runtime.full_precision import full_precision

__all__ = ["Evaluation", "KeptOutputs", "Original", "evaluate", "evaluate_original", "keep_outputs"]


def evaluate(
    network: nn.Module,
    data: DataSet,
    images: ImageSet,
    batch_size: int,
    device: torch.device | str = "cpu",
    metric: Metric | None = None,
    original: nn.Module | Original | None = None,
) -> Evaluation:
    """Run a network over a set of samples.

    Args:
        network: normalised inputs to outputs; is moved to `device`.
        data: knows the normalisation.
        images: what to predict.
        batch_size: most samples per forward pass.
        metric: what to measure; None: the accuracy.
        original: the float network, or what gives its outputs; needed by metrics that compare with it.

    Raises:
        InputError: the metric cannot read the outputs.
        NotFiniteError: an output is NaN, which no argmax may turn into a class.
    """
    metric = metric or Top1()
    compared = _runs(original.to(device)) if isinstance(original, nn.Module) else original
    scoring = Scoring(metric, images, compared)
    began = time.perf_counter()
    over_batches(network, data, images, batch_size, device, scoring)
    return scoring.evaluation(time.perf_counter() - began)


@torch.inference_mode()
@full_precision()
def evaluate_original(
    original: Original, data: DataSet, images: ImageSet, batch_size: int, device: torch.device | str, metric: Metric
) -> Evaluation:
    """As `evaluate`, of what gives the float outputs itself.

    Args:
        original: is given inputs where it is no `KeptOutputs`, or where the metric reads them.
    """
    scoring, began = Scoring(metric, images, original), time.perf_counter()
    reads = metric.reads_inputs(images.labels is not None) or not isinstance(original, KeptOutputs)
    for start in range(0, len(images), batch_size):
        stop = min(start + batch_size, len(images))
        inputs = data.normalize(images.images[start:stop].to(device)) if reads else None
        scoring(start, inputs, original(start, stop, inputs))
    return scoring.evaluation(time.perf_counter() - began)


@final
@dataclass(frozen=True, eq=False)
class KeptOutputs:
    """What a network made of all samples: leaves (n, ...) of its structure."""

    leaves: Sequence[Tensor]
    structure: pytree.TreeSpec

    def __call__(self, start: int, stop: int, _inputs: Tensor | None) -> Any:
        return pytree.tree_unflatten([leaf[start:stop] for leaf in self.leaves], self.structure)


def keep_outputs(
    network: nn.Module, data: DataSet, images: ImageSet, batch_size: int, device: torch.device | str
) -> list[Tensor]:
    """The outputs of a network for all samples, leaf by leaf, (n, ...) each, on the CPU; raises as `over_batches`."""
    kept: list[Tensor] = []

    def keep(start: int, _inputs: Tensor, outputs: Any) -> None:
        leaves = pytree.tree_leaves(outputs)
        if not kept:
            kept.extend(torch.empty((len(images), *leaf.shape[1:]), dtype=leaf.dtype) for leaf in leaves)
        for whole, leaf in zip(kept, leaves, strict=True):
            whole[start : start + len(leaf)] = leaf

    over_batches(network, data, images, batch_size, device, keep)
    return kept


def _runs(original: nn.Module) -> Original:
    return lambda _start, _stop, inputs: original(inputs)
