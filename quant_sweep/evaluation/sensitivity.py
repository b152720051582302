"""Which tensors a network can least bear in few bits: each is put on its grid alone, all others stay in float.

The same is measured of each layer (its weight and what it reads) and of the whole network. Damage is measured on the
logits against those of the float network: the Kullback-Leibler divergence ranks, since it needs no labels and moves
before any class does; accuracy on a subset of images comes in steps of one image. Outputs that are no logits are ranked
by their relative error. Damages do not add up, so the rank
says where to spend bits first and not what the whole network will lose.

What lies upstream of the tensor is what the float network computed, and is computed once per batch for all.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

import pandas as pd
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.arithmetic.affine import fake_quantize, sqnr_db
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.errors import NotFiniteError
from quant_sweep.evaluation.logit_damage import Damage, DamageSum
from quant_sweep.evaluation.metrics import Metric, Top1
from quant_sweep.graph import FakeQuantize, QuantGraph, WeightQuantizer, insert_at_quantizers
from quant_sweep.graph.quantizers import source_of
from quant_sweep.histograms.expected_error import sqnr_db_of
from quant_sweep.histograms.summary import Summary

Kind: TypeAlias = Literal["network", "layer", "weight", "activation"]


@dataclass(frozen=True)
class Part:
    """What is quantized while everything else stays in float.

    Attributes:
        name: of the tensor, the path of the layer, or "whole network", which is no path.
        kind: a layer is its weight and the activations that it reads.
        tensors: their names.
    """

    name: str
    kind: Kind
    tensors: tuple[str, ...]


@dataclass(frozen=True)
class Sensitivities:
    """The damage of every part, on the same images.

    Attributes:
        images: how many were seen.
        metric: what was measured.
        float_value: of the float network on them, in the metric's unit; None where it has none.
        damages: in the order of `parts_of`.
    """

    images: int
    metric: Metric
    float_value: float | None
    damages: Mapping[Part, Damage]

    def table(self, own_sqnr_db: Mapping[str, float]) -> pd.DataFrame:
        """One row per part, the most damaging first.

        Columns: name; kind; tensors, names with spaces between; <metric>_drop, if there is one; logit_kl, or
        relative_error of outputs that are no logits; logit_sqnr_db as in `Damage`; own_sqnr_db, that of the tensor
        itself, missing for a part of several.
        """
        some = next(iter(self.damages.values()))
        rank = "relative_error" if some.logit_kl is None else "logit_kl"
        drop = {} if some.drop is None else {f"{self.metric.name}_drop": "drop"}
        kept = {**drop, rank: rank, "logit_sqnr_db": "logit_sqnr_db"}
        rows = [
            {"name": part.name, "kind": part.kind, "tensors": " ".join(part.tensors)}
            | {column: getattr(damage, name) for column, name in kept.items()}
            | {"own_sqnr_db": own_sqnr_db.get(part.name)}
            for part, damage in self.damages.items()
        ]
        return pd.DataFrame(rows).sort_values([rank, "name"], ascending=[False, True], ignore_index=True)


def parts_of(graph: QuantGraph, on_grids: Collection[str]) -> tuple[Part, ...]:
    """The whole network, every layer, every weight and every activation, as far as `on_grids` are their tensors."""
    layers = ((layer_of(q), tuple(n for n in (q.name, *_read_by(q, graph)) if n in on_grids)) for q in graph.weights)
    return (
        Part("whole network", "network", tuple(name for name in graph.names if name in on_grids)),
        *(Part(name, "layer", tensors) for name, tensors in layers if tensors),
        *(Part(q.name, "weight", (q.name,)) for q in graph.weights if q.name in on_grids),
        *(Part(q.name, "activation", (q.name,)) for q in graph.activations if q.name in on_grids),
    )


def layer_of(weight: WeightQuantizer) -> str:
    """The path of the layer that a weight belongs to; the weight's own name where that does not tell."""
    return weight.name.removesuffix(".weight")


def _read_by(weight: WeightQuantizer, graph: QuantGraph) -> list[str]:
    """The activations that a layer reads; several if it is called several times."""
    nodes = (graph.graph.node[name] for name in weight.layers)
    return list(dict.fromkeys(source_of(graph.graph, node.inputs[0], node.name)[0] for node in nodes))


@torch.inference_mode()
def measure_sensitivity(
    graph: QuantGraph,
    qparams: Mapping[str, QParams],
    batches: Iterable[tuple[Tensor, Tensor | None]],
    metric: Metric | None = None,
) -> Sensitivities:
    """Quantize one part after another and hold the outputs against those of the float network.

    Args:
        graph: the float network; it is not changed.
        qparams: by tensor name; a tensor without one stays in float.
        batches: normalised inputs, float32 (n, ...), on the device to use, and their labels, (n, ...) or none. What
            the float network computes of a batch is kept in memory while the parts are measured.
        metric: what to measure; None: the accuracy.

    Raises:
        NotFiniteError: a logit is NaN.
        ValueError: there is no batch.
    """
    parts = parts_of(graph, qparams)
    metric = metric or Top1()
    scores = {part: DamageSum(metric) for part in parts}
    grids: _Grids | None = None
    for batch, labels in batches:
        grids = grids or _Grids(graph, qparams, batch.device)
        values = grids.network.values(batch, keep=lambda _: True)
        original = _checked(grids.network.returned(values))
        for part in parts:
            outputs = _checked(grids.network.again(values, *grids.of(part)))
            scores[part].update(original, outputs, labels, batch)
    whole = scores[parts[0]]
    if not whole.samples:
        raise ValueError("sensitivity needs at least one batch of images")
    damages = {part: score.damage() for part, score in scores.items()}
    return Sensitivities(whole.samples, metric, whole.float_value, damages)


def own_sqnr_db(
    graph: QuantGraph, qparams: Mapping[str, QParams], summaries: Mapping[str, Summary]
) -> dict[str, float]:
    """The signal-to-quantization-noise ratio of every tensor itself, dB.

    Weights give theirs from their values, activations from what calibration saw; one without a summary is left out.
    """
    weights = {q.name: graph.graph.constants[q.name].double() for q in graph.weights if q.name in qparams}
    ratios = {
        name: sqnr_db((w**2).sum(), ((w - fake_quantize(w.float(), qparams[name])) ** 2).sum()).item()
        for name, w in weights.items()
    }
    seen = ((name, summary) for name, summary in summaries.items() if name in qparams)
    return ratios | {name: sqnr_db_of(summary.total, qparams[name]).item() for name, summary in seen}


def _checked(outputs: Any) -> Any:
    if any(bool(leaf.isnan().any()) for leaf in pytree.tree_leaves(outputs)):
        raise NotFiniteError("model: NaN logits; check model.checkpoint, data.mean and data.std")
    return outputs


@final
class _Grids:
    """A network, and every tensor of it on its grid."""

    def __init__(self, graph: QuantGraph, qparams: Mapping[str, QParams], device: torch.device) -> None:
        self.network = insert_at_quantizers(graph, {q.name: _unchanged for q in graph.activations}).to(device)
        self.activations = {q.name: FakeQuantize(qparams[q.name]) for q in graph.activations if q.name in qparams}
        self.weights = {
            q.name: fake_quantize(graph.graph.constants[q.name], qparams[q.name]).to(device)
            for q in graph.weights
            if q.name in qparams
        }

    def of(self, part: Part) -> tuple[dict[str, FakeQuantize], dict[str, Tensor]]:
        """What stands in for the activations of a part and for its weights, by name."""
        activations = {name: self.activations[name] for name in part.tensors if name in self.activations}
        return activations, {name: self.weights[name] for name in part.tensors if name in self.weights}


def _unchanged(x: Tensor) -> Tensor:
    return x
