"""Bits where they matter: the widths with the least damage that a budget allows, as an integer program.

x[t, b] = 1 where the tensors of group t have b bits; one b for each group. The damage of an assignment is taken as the
sum of what each tensor does alone. Bits of weights and of activations are sums over x; the bit operations of a layer,
its products times the bits of both factors, are a product of two choices, written as z[l, a, w] with
sum_w z[l, a, w] = x[input, a] and sum_a z[l, a, w] = x[weight, w], which is exact where x is 0 or 1.

A tensor in float counts as 32 bits. Solved by HiGHS, through `scipy.optimize.milp`.

Source: Yao et al. 2021, HAWQ-V3, arXiv:2011.10680, section 3.4, for the integer program.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import final

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import coo_array

from quant_sweep.graph import INPUT, Node, QuantGraph
from quant_sweep.graph.operations import Add, Concatenate, Convolution
from quant_sweep.graph.quantizers import source_of
from quant_sweep.quantization.scheme import FLOAT, Width

_FLOAT_BITS = 32
_SECONDS, _GAP = 30.0, 1e-4  # when the solver stops with what it has
WEIGHT_BITS, ACTIVATION_BITS, BIT_OPERATIONS = "weight_bits", "activation_bits", "bit_operations"


@final
@dataclass(frozen=True)
class LayerSize:
    """A call of a layer: its weight, the tensor that it reads, and how many products it makes of an image."""

    weight: str
    input: str
    products: int


@final
@dataclass(frozen=True, eq=False)
class NetworkSize:
    """What a network costs, before it is said in how many bits.

    Attributes:
        weights: numbers in each weight.
        activations: numbers in each activation of an image.
        layers: calls of layers.
    """

    weights: Mapping[str, int]
    activations: Mapping[str, int]
    layers: Sequence[LayerSize]

    def costs(self, widths: Mapping[str, Width]) -> dict[str, float]:
        """Bits of all weights; bits of all activations of an image; and bit operations of an image.

        Args:
            widths: by tensor name; one without is in float.
        """
        bits = {name: bits_of(widths.get(name, FLOAT)) for name in (*self.weights, *self.activations)}
        operations = (bits[c.weight] * bits.get(c.input, _FLOAT_BITS) * c.products for c in self.layers)
        return {
            WEIGHT_BITS: float(sum(bits[name] * count for name, count in self.weights.items())),
            ACTIVATION_BITS: float(sum(bits[name] * count for name, count in self.activations.items())),
            BIT_OPERATIONS: float(sum(operations)),
        }


def bits_of(width: Width) -> int:
    """How many bits a number of this width takes."""
    return _FLOAT_BITS if width == FLOAT else int(width)


def network_size(graph: QuantGraph) -> NetworkSize:
    """How large the tensors and layers of a network are."""
    nodes, constants = graph.graph.node, graph.graph.constants
    shapes = {q.name: graph.graph.input_shape if q.name == INPUT else nodes[q.name].shape for q in graph.activations}
    calls = [
        LayerSize(q.name, source_of(graph.graph, nodes[name].inputs[0], name)[0], _products(graph, nodes[name]))
        for q in graph.weights
        for name in q.layers
    ]
    weights = {q.name: constants[q.name].numel() for q in graph.weights}
    return NetworkSize(weights, {name: math.prod(shape) for name, shape in shapes.items()}, calls)


def _products(graph: QuantGraph, layer: Node) -> int:
    weight, operation = graph.graph.constants[layer.inputs[1]], layer.operation
    if isinstance(operation, Convolution) and operation.transposed:  # each input meets the weights of its channel
        read = graph.graph.input_shape if layer.inputs[0] == INPUT else graph.graph.node[layer.inputs[0]].shape
        return math.prod(read) * weight.numel() // (weight.shape[1] * operation.groups)
    return math.prod(layer.shape) * weight[0].numel()


def sharing_groups(graph: QuantGraph, tied: Mapping[str, str]) -> tuple[tuple[str, ...], ...]:
    """The tensors that must have one width, each tensor in one group, in the order of the graph's names.

    Operands of a sum, and inputs of a concatenation, that are read on their grids there: one word holds both.

    Args:
        tied: tensors whose grid is that of another, by name.
    """
    readers = {q.name: set(q.readers) for q in graph.activations}
    together = [*tied.items()]
    for node in graph.graph.nodes:
        if isinstance(node.operation, Add | Concatenate):
            read = (source_of(graph.graph, name, node.name) for name in graph.graph.computed_inputs(node))
            on_grids = [source for source, reader in read if reader in readers.get(source, ())]
            together += pairwise(on_grids)
    group = {name: {name} for name in graph.names}
    for one, other in together:
        merged = group[one] | group[other]
        group |= dict.fromkeys(merged, merged)
    ordered = {name: tuple(n for n in graph.names if n in group[name]) for name in graph.names}
    return tuple(dict.fromkeys(ordered.values()))


def least_damage(
    damages: Mapping[str, Mapping[Width, float]],
    groups: Iterable[Collection[str]],
    size: NetworkSize,
    caps: Mapping[str, float],
    *,
    tried: Sequence[Mapping[str, Width]] = (),
) -> dict[str, Width] | None:
    """The assignment with the least sum of damages.

    Args:
        damages: of every tensor at every width that it may have; finite. More bits are taken to do no more damage.
        groups: the tensors that share a width; each tensor is in one.
        size: of the network.
        caps: the most of each cost, by the names of `NetworkSize.costs`.
        tried: assignments that are not wanted again.

    Returns:
        By tensor; None where no assignment keeps to the caps, or none was found in half a minute.
    """
    program = _Program([tuple(group) for group in groups], damages)
    for name, numbers in ((WEIGHT_BITS, size.weights), (ACTIVATION_BITS, size.activations)):
        if name in caps:
            program.cap_bits(numbers, caps[name])
    if BIT_OPERATIONS in caps:
        program.cap_operations(size.layers, caps[BIT_OPERATIONS])
    for assignment in tried:
        program.exclude(assignment)
    return program.solved()


@final
class _Program:
    """The integer program as it is written row by row."""

    def __init__(self, groups: Sequence[tuple[str, ...]], damages: Mapping[str, Mapping[Width, float]]) -> None:
        self.groups = groups
        self.group_of = {name: i for i, group in enumerate(groups) for name in group}
        self.cost: list[float] = []
        self.x: list[dict[Width, int]] = []
        self.rows: list[tuple[dict[int, float], float, float]] = []
        for group in groups:
            widths = [w for w in damages[group[0]] if all(w in damages[name] for name in group)]
            total = _falling({w: sum(damages[name][w] for name in group) for w in widths})
            self.x.append({w: self._variable(total[w]) for w in widths})
            self.rows.append((dict.fromkeys(self.x[-1].values(), 1.0), 1.0, 1.0))
        self.choices = len(self.cost)

    def _variable(self, cost: float) -> int:
        self.cost.append(cost)
        return len(self.cost) - 1

    def cap_bits(self, numbers: Mapping[str, int], most: float) -> None:
        row: dict[int, float] = {}
        for name, count in numbers.items():
            for width, i in self.x[self.group_of[name]].items():
                row[i] = row.get(i, 0.0) + count * bits_of(width) / most
        self.rows.append((row, -np.inf, 1.0))

    def cap_operations(self, layers: Sequence[LayerSize], most: float) -> None:
        row: dict[int, float] = {}
        for layer in layers:
            weight = self.x[self.group_of[layer.weight]]
            reads = self.x[self.group_of[layer.input]] if layer.input in self.group_of else None
            if reads is None:
                for w, i in weight.items():
                    row[i] = row.get(i, 0.0) + layer.products * bits_of(w) * _FLOAT_BITS / most
                continue
            z = {(a, w): self._variable(0.0) for a in reads for w in weight}
            row |= {i: layer.products * bits_of(a) * bits_of(w) / most for (a, w), i in z.items()}
            for a, i in reads.items():
                self.rows.append(({z[a, w]: 1.0 for w in weight} | {i: -1.0}, 0.0, 0.0))
            for w, i in weight.items():
                self.rows.append(({z[a, w]: 1.0 for a in reads} | {i: -1.0}, 0.0, 0.0))
        self.rows.append((row, -np.inf, 1.0))

    def exclude(self, widths: Mapping[str, Width]) -> None:
        """At least one group has another width than in an assignment."""
        same = [x.get(widths.get(group[0], FLOAT)) for group, x in zip(self.groups, self.x, strict=True)]
        self.rows.append(({i: 1.0 for i in same if i is not None}, -np.inf, len(self.groups) - 1.0))

    def solved(self) -> dict[str, Width] | None:
        entries = [(i, j, value) for i, (row, _, _) in enumerate(self.rows) for j, value in row.items()]
        i, j, values = zip(*entries, strict=True)
        matrix = coo_array((values, (i, j)), shape=(len(self.rows), len(self.cost))).tocsr()
        integral = np.zeros(len(self.cost))
        integral[: self.choices] = 1
        found = milp(
            np.array(self.cost),
            integrality=integral,
            bounds=Bounds(0, 1),
            constraints=LinearConstraint(matrix, [row[1] for row in self.rows], [row[2] for row in self.rows]),
            options={"time_limit": _SECONDS, "mip_rel_gap": _GAP},
        )
        if found.x is None:
            return None
        chosen = [max(x, key=lambda width: found.x[x[width]]) for x in self.x]
        return {name: chosen[self.group_of[name]] for name in self.group_of}


def _falling(damages: Mapping[Width, float]) -> dict[Width, float]:
    """Damages that more bits never raise: what noise says otherwise would buy bits for nothing."""
    result, most = dict[Width, float](), -math.inf
    for width in sorted(damages, key=bits_of, reverse=True):
        most = max(most, damages[width])
        result[width] = most
    return {width: result[width] for width in damages}
