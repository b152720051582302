"""Which tensors a network can least bear in few bits: each is put on its grid alone, all others stay in float.

The same is measured of each layer (its weight and what it reads) and of the whole network. Damage is measured on the
logits against those of the float network: the Kullback-Leibler divergence ranks, since it needs no labels and moves
before any class does; accuracy on a subset of images comes in steps of one image. Damages do not add up, so the rank
says where to spend bits first and not what the whole network will lose.

What lies upstream of the tensor is what the float network computed, and is computed once per batch for all.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias, final

import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from quant_sweep.affine import fake_quantize
from quant_sweep.engines.simulate import FakeQuantize
from quant_sweep.expected_error import sqnr_db_of
from quant_sweep.graph import QuantGraph, insert_at_points
from quant_sweep.spec import QParams
from quant_sweep.summary import Summary

Kind: TypeAlias = Literal["network", "layer", "weight", "activation"]
COLUMNS = ["name", "kind", "tensors", "accuracy_drop", "logit_kl", "logit_sqnr_db", "own_sqnr_db"]


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
class Damage:
    """What quantizing one part does to the logits of the float network.

    Attributes:
        accuracy_drop: points of top-1 accuracy, float minus quantized; below 0 where chance helps.
        logit_kl: mean over images of KL(softmax(float logits) || softmax(quantized logits)), nats.
        logit_sqnr_db: 10 log10(sum z^2 / sum (z - z_quantized)^2) over all logits z, dB; +inf where nothing changed.
    """

    accuracy_drop: float
    logit_kl: float
    logit_sqnr_db: float


@dataclass(frozen=True)
class Sensitivities:
    """The damage of every part, on the same images.

    Attributes:
        images: how many were seen.
        float_accuracy: of the float network on them, percent.
        damages: in the order of `parts_of`.
    """

    images: int
    float_accuracy: float
    damages: Mapping[Part, Damage]

    def table(self, own_sqnr_db: Mapping[str, float]) -> pd.DataFrame:
        """One row per part, the most damaging first.

        Columns: name; kind; tensors, names with spaces between; accuracy_drop, logit_kl and logit_sqnr_db as in
        `Damage`; own_sqnr_db, that of the tensor itself, missing for a part of several.
        """
        rows = [
            [part.name, part.kind, " ".join(part.tensors), *vars(damage).values(), own_sqnr_db.get(part.name)]
            for part, damage in self.damages.items()
        ]
        table = pd.DataFrame(rows, columns=COLUMNS)
        return table.sort_values(["logit_kl", "name"], ascending=[False, True], ignore_index=True)


def parts_of(graph: QuantGraph) -> tuple[Part, ...]:
    """The whole network, every layer, every weight and every activation."""
    return (
        Part("whole network", "network", graph.names),
        *(Part(p.module, "layer", (p.name, *_read_by(p.module, graph))) for p in graph.weights),
        *(Part(p.name, "weight", (p.name,)) for p in graph.weights),
        *(Part(p.name, "activation", (p.name,)) for p in graph.activations),
    )


def _read_by(layer: str, graph: QuantGraph) -> list[str]:
    """The activations that a layer reads; several if it is called several times."""
    points = {(point.node, reader): point.name for point in graph.activations for reader in point.readers}
    names = []
    for node in graph.module.graph.nodes:
        if node.op == "call_module" and node.target == layer:
            source, reader = node.all_input_nodes[0], node
            while (source.name, reader.name) not in points:  # through what only moves values
                source, reader = source.all_input_nodes[0], source
            names.append(points[source.name, reader.name])
    return list(dict.fromkeys(names))


@torch.inference_mode()
def measure_sensitivity(
    graph: QuantGraph, qparams: Mapping[str, QParams], batches: Iterable[tuple[Tensor, Tensor]]
) -> Sensitivities:
    """Quantize one part after another and hold the logits against those of the float network.

    Args:
        graph: the float network; it is not changed.
        qparams: by tensor name, for all of the graph's.
        batches: normalised images, float32 (n, channels, height, width), on the device to use, and their classes,
            int64 (n,). What the float network computes of a batch is kept in memory while the parts are measured.

    Raises:
        FloatingPointError: a logit is NaN.
        ValueError: there is no batch.
    """
    parts = parts_of(graph)
    scores = {part: _Score() for part in parts}
    images, correct = 0, 0
    networks: _Networks | None = None
    for batch, labels in batches:
        networks = networks or _Networks(graph, qparams, batch.device)
        computed = networks.run_in_float(batch)
        original = _checked(computed.logits)
        images, correct = images + len(labels), correct + _count_correct(original, labels)
        for part in parts:
            scores[part].update(original, _checked(networks.run(part, computed)), labels)
    if not images:
        raise ValueError("sensitivity needs at least one batch of images")
    return Sensitivities(images, 100.0 * correct / images, {part: score.damage() for part, score in scores.items()})


def logit_kl(original: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(original) || softmax(logits)) of each image, in float64.

    Args:
        original, logits: (n, classes).

    Returns:
        nats, float64 (n,), never below 0.

    Source: Kullback and Leibler 1951, Annals of Mathematical Statistics 22, p. 79-86.
    """
    p, q = F.log_softmax(original.double(), dim=1), F.log_softmax(logits.double(), dim=1)
    return (p.exp() * (p - q)).sum(dim=1).clamp(min=0.0)  # rounding leaves -1e-17 where both are the same


def own_sqnr_db(
    graph: QuantGraph, qparams: Mapping[str, QParams], summaries: Mapping[str, Summary]
) -> dict[str, float]:
    """The signal-to-quantization-noise ratio of every tensor itself, dB.

    Weights give theirs from their values, activations from what calibration saw; one without a summary is left out.
    """
    weights = {point.name: graph.module.get_parameter(point.name).detach().double() for point in graph.weights}
    ratios = {
        name: _sqnr_db(float((w**2).sum()), float(((w - fake_quantize(w.float(), qparams[name])) ** 2).sum()))
        for name, w in weights.items()
    }
    return ratios | {name: sqnr_db_of(summary.total, qparams[name]).item() for name, summary in summaries.items()}


def _sqnr_db(signal: float, noise: float) -> float:
    """Sums of squares -> dB; +inf without noise, NaN where there is no signal either."""
    if noise == 0 or signal == 0:
        return math.inf if signal else math.nan if not noise else -math.inf
    return 10 * math.log10(signal / noise)


def _checked(logits: Tensor) -> Tensor:
    if bool(logits.isnan().any()):
        raise FloatingPointError("sensitivity: the network returned NaN logits")
    return logits


def _count_correct(logits: Tensor, labels: Tensor) -> int:
    return int((logits.argmax(dim=1) == labels.to(logits.device)).sum())


@final
@dataclass
class _Score:
    """Sums over images, for one part."""

    images: int = 0
    lost: int = 0  # images that float has right, less those that the part has right
    kl: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def update(self, original: Tensor, logits: Tensor, labels: Tensor) -> None:
        self.images += len(labels)
        self.lost += _count_correct(original, labels) - _count_correct(logits, labels)
        self.kl += float(logit_kl(original, logits).sum())
        self.signal += float((original.double() ** 2).sum())
        self.noise += float(((original.double() - logits.double()) ** 2).sum())

    def damage(self) -> Damage:
        return Damage(100.0 * self.lost / self.images, self.kl / self.images, _sqnr_db(self.signal, self.noise))


@dataclass(frozen=True, eq=False)
class _Computed:
    """Everything that the float network computed of one batch."""

    values: Mapping[fx.Node, Any]
    logits: Tensor


@final
class _Networks:
    """One traced network in which any part can be put on its grids, without changing it."""

    def __init__(self, graph: QuantGraph, qparams: Mapping[str, QParams], device: torch.device) -> None:
        self.network = insert_at_points(graph, {point.name: nn.Identity() for point in graph.activations}).to(device)
        self.on_grid: dict[str, tuple[str, nn.Module]] = {}  # tensor -> path of what makes it, and that on its grid
        for point in graph.activations:
            self.on_grid[point.name] = (f"quantization_points.{point.node}", FakeQuantize(qparams[point.name]))
        for weight in graph.weights:
            layer = copy.deepcopy(self.network.get_submodule(weight.module))
            with torch.no_grad():
                parameter = layer.get_parameter("weight")
                parameter.copy_(fake_quantize(parameter, qparams[weight.name].to(device)))
            self.on_grid[weight.name] = (weight.module, layer)

    def run_in_float(self, batch: Tensor) -> _Computed:
        interpreter = _Replacing(self.network, {}, keep=True)
        logits = interpreter.run(batch)
        return _Computed(interpreter.env, logits)

    def run(self, part: Part, computed: _Computed) -> Tensor:
        """Logits with one part on its grids; only what depends on it is computed."""
        modules = dict(self.on_grid[tensor] for tensor in part.tensors)
        changed = set(_downstream(self.network.graph, modules))
        values = {node: value for node, value in computed.values.items() if node not in changed}
        logits = _Replacing(self.network, modules, keep=False).run(initial_env=values)
        assert isinstance(logits, Tensor)
        return logits


def _downstream(graph: fx.Graph, modules: Mapping[str, nn.Module]) -> Iterator[fx.Node]:
    """The nodes that call one of `modules`, all that depend on them, and the output."""
    changed: set[fx.Node] = set()
    for node in graph.nodes:
        calls = node.op == "call_module" and node.target in modules
        if calls or node.op == "output" or not changed.isdisjoint(node.all_input_nodes):
            changed.add(node)
            yield node


@final
class _Replacing(fx.Interpreter):
    """Runs a network with other modules at some of its paths."""

    def __init__(self, network: fx.GraphModule, modules: Mapping[str, nn.Module], keep: bool) -> None:
        super().__init__(network, garbage_collect_values=not keep)
        self.replacements = modules

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self.replacements.get(target)
        return super().call_module(target, args, kwargs) if module is None else module(*args, **kwargs)
