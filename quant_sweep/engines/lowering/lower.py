"""Decides for every tensor of a network whether it is held as codes or in float, and who computes it.

A layer is done together with the residual add and the clamp behind it, as `graph.quantizers` fused them, and writes
codes if everybody who reads the result reads it on its grid. What only moves codes stays in codes, a concatenation if
all its inputs lie on one grid; a clamp or activation function of codes is a look-up. Everything else is computed in
float, between a dequantize and a quantize, and listed in `float_tensors`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import final

import torch

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering.steps import (
    Compute,
    Dequantize,
    Layer,
    Lookup,
    Lowered,
    Moved,
    Padded,
    PooledAverage,
    Quantize,
    Step,
    Sum,
    Value,
    same_grid,
)
from quant_sweep.graph import INPUT, Node, QuantGraph
from quant_sweep.graph.operations import (
    Activation,
    AdaptiveMaxPool,
    Add,
    Average,
    Clamp,
    Concatenate,
    MaxPool,
    Move,
    Pad,
    Reshape,
    Weighted,
)
from quant_sweep.graph.quantizers import fused_operations, leads_only_out, only_reader, other_operand, source_of

_UNLIMITED = (-math.inf, math.inf)


def lower(graph: QuantGraph, qparams: Mapping[str, QParams]) -> Lowered:
    """The steps that compute `graph` on the grids of `qparams`.

    Args:
        graph: the network; it is not changed.
        qparams: by tensor name, grids of any width; a tensor without an entry stays in float, and so does a layer
            whose weight or input has none: it becomes a `Compute`.
    """
    return _Lowering(graph, qparams).run()


@final
class _Lowering:
    """The walk over the graph, and what it has written so far."""

    def __init__(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> None:
        self.quantizers, self.graph, self.qparams = graph, graph.graph, qparams
        self.readers = {q.name: frozenset(q.readers) for q in graph.activations if q.name in qparams}
        self.steps: list[Step] = []
        self.raw: dict[str, Value] = {INPUT: Value(INPUT, None)}  # what a node makes
        self.on_grid: dict[str, Value] = {}  # the same on the grid of its quantizer
        self.in_float: dict[str, Value] = {}  # dequantized values, by the name of the codes

    def run(self) -> Lowered:
        chains = self._chains()
        done_by_others = {node.name for chain in chains.values() for node in chain[:-1]}
        for node in self.graph.nodes:
            if node.name in chains:
                self._lower_chain(chains[node.name])
            elif node.name not in done_by_others:
                self._lower_node(node)
        outputs = tuple(self._as_float(self._raw_or_constant(name)) for name in self.graph.outputs)
        return Lowered(
            tuple(self.steps), self.raw[INPUT], outputs, self.graph.structure, dict(self.on_grid), self._float_tensors()
        )

    # -- who reads what --

    def _reads_on_grid(self, name: str, reader: Node) -> bool:
        return reader.name in self.readers.get(name, ())

    def _written_grid(self, name: str) -> QParams | None:
        """The grid on which all readers of a tensor read it."""
        readers = self.graph.readers[name]
        if readers and name not in self.graph.outputs and all(self._reads_on_grid(name, reader) for reader in readers):
            return self.qparams[name]
        return None

    def _read(self, name: str, reader: Node) -> Value:
        if not self._reads_on_grid(name, reader):
            return self._raw_or_constant(name)
        if name not in self.on_grid:
            self.on_grid[name] = self._put_on_grid(self.raw[name], name)
        return self.on_grid[name]

    def _raw_or_constant(self, name: str) -> Value:
        return Value(name, None) if name in self.graph.constants else self.raw[name]

    def _put_on_grid(self, x: Value, name: str) -> Value:
        grid = self.qparams[name]
        if same_grid(x.grid, grid):
            return x
        out = Value(f"{name}:codes", grid)
        self.steps.append(Quantize(out, x) if x.grid is None else Lookup(out, x, None, (), _UNLIMITED))
        return out

    def _as_float(self, x: Value) -> Value:
        if x.grid is None:
            return x
        if x.name not in self.in_float:
            self.in_float[x.name] = Value(f"{x.name}:float", None)
            self.steps.append(Dequantize(self.in_float[x.name], x))
        return self.in_float[x.name]

    def _write(self, node: Node, grid: QParams | None) -> Value:
        """The value of `node`, on the grid of its quantizer if that is the one given."""
        value = Value(node.name, grid)
        self.raw[node.name] = value
        if node.name in self.readers and same_grid(grid, self.qparams[node.name]):
            self.on_grid[node.name] = value
        return value

    # -- layers and sums --

    def _chains(self) -> dict[str, list[Node]]:
        """Each layer, and each sum that no layer does, with what is fused into it; by its last node's name."""
        layers = (n for n in self.graph.nodes if isinstance(n.operation, Weighted) and self._has_grids(n))
        chains = [self._written_part(fused_operations(self.graph, node)) or [node] for node in layers]
        fused = {node.name for chain in chains for node in chain}
        sums = (n for n in self.graph.nodes if isinstance(n.operation, Add) and n.name not in fused)
        chains += [chain for chain in (self._written_part(self._sum_and_clamp(node)) for node in sums) if chain]
        return {chain[-1].name: chain for chain in chains}

    def _sum_and_clamp(self, add: Node) -> list[Node]:
        reader = only_reader(self.graph, add.name)
        return [add, reader] if reader is not None and isinstance(reader.operation, Clamp) else [add]

    def _written_part(self, chain: list[Node]) -> list[Node]:
        """As much of `chain` as can be rounded once, at its end; [] if no end of it is written as codes."""
        cut = (i for i in range(1, len(chain)) if self._reads_on_grid(chain[i - 1].name, chain[i]))
        chain = chain[: next(cut, len(chain))]
        while chain and self._written_grid(chain[-1].name) is None:
            chain = chain[:-1]
        return chain

    def _has_grids(self, layer: Node) -> bool:
        """Whether the weight and the input of `layer` lie on grids."""
        if layer.inputs[1] not in self.qparams:
            return False
        source, reader = source_of(self.graph, layer.inputs[0], layer.name)
        return reader in self.readers.get(source, ())

    def _lower_chain(self, chain: list[Node]) -> None:
        """One step if all it reads is codes, else one for each node."""
        start, end = chain[0], chain[-1]
        add = next((node for node in chain if isinstance(node.operation, Add)), None)
        clamps = (node.operation for node in chain if isinstance(node.operation, Clamp))
        limits = next(((clamp.lo, clamp.hi) for clamp in clamps), _UNLIMITED)
        if isinstance(start.operation, Weighted):
            x = self._read(start.inputs[0], start)
            residual = None if add is None else self._read(other_operand(add, start.name), add)
            if x.grid is not None and (residual is None or residual.grid is not None):
                self._write_layer(start, end, self._written_grid(end.name), x, residual, limits)
                return
        elif add is not None:
            x, y = (self._read(name, add) for name in add.inputs)
            if x.grid is not None and y.grid is not None:
                self.steps.append(Sum(self._write(end, self._written_grid(end.name)), x, y, limits))
                return
        for node in chain:
            self._lower_node(node)

    def _write_layer(
        self,
        layer: Node,
        end: Node,
        grid: QParams | None,
        x: Value,
        residual: Value | None = None,
        limits: tuple[float, float] = _UNLIMITED,
    ) -> None:
        assert isinstance(layer.operation, Weighted)
        _, weight, *bias = layer.inputs
        out = self._write(end, grid)
        self.steps.append(
            Layer(out, layer.operation, weight, bias[0] if bias else None, x, residual, limits, layer.shape)
        )

    # -- single operations --

    def _lower_node(self, node: Node) -> None:
        reads = [self._read(name, node) for name in node.inputs]
        x = reads[0] if reads else None
        if isinstance(node.operation, Weighted) and x is not None and x.grid is not None and self._has_grids(node):
            self._write_layer(node, node, None, x)
        elif x is None or x.grid is None or not self._lower_on_codes(node, reads, x):
            self.steps.append(
                Compute(self._write(node, None), node.operation, tuple(self._as_float(value) for value in reads))
            )

    def _lower_on_codes(self, node: Node, reads: list[Value], x: Value) -> bool:
        """Write the step of an operation whose first input `x` is codes; False if it has none."""
        operation, written = node.operation, self._written_grid(node.name)
        match operation:
            case Pad():
                self.steps.append(Padded(self._write(node, x.grid), x, operation.padding))
            case MaxPool() | AdaptiveMaxPool() | Reshape() | Move():
                self.steps.append(self._moved(node, reads, x.grid))
            case Concatenate() if all(same_grid(value.grid, x.grid) for value in reads):
                self.steps.append(self._moved(node, reads, x.grid))
            case Clamp() if self._clamps_codes(operation, x, written):
                self._look_up(node, operation, x, x.grid)
            case Clamp() | Activation() if written is not None and self._is_function(node):
                self._look_up(node, operation, x, written)
            case _ if written is not None and isinstance(operation, Average):
                self.steps.append(PooledAverage(self._write(node, written), x, operation))
            case _:
                return False
        return True

    def _moved(self, node: Node, reads: list[Value], grid: QParams | None) -> Moved:
        first = node.inputs[0]
        shape = self.graph.input_shape if first == INPUT else self.graph.node[first].shape
        return Moved(self._write(node, grid), node.operation, tuple(reads), shape)

    def _look_up(self, node: Node, operation: Activation | Clamp, x: Value, grid: QParams | None) -> None:
        limits = (operation.lo, operation.hi) if isinstance(operation, Clamp) else None
        self.steps.append(Lookup(self._write(node, grid), x, operation, node.inputs[1:], limits))

    def _clamps_codes(self, clamp: Clamp, x: Value, written: QParams | None) -> bool:
        """Whether a clamp leads from codes to codes of the same grid: what it cuts off at lies on it, or outside."""
        assert x.grid is not None
        if same_grid(x.grid, written):
            return True
        inside = torch.tensor((clamp.lo, clamp.hi)).clamp(x.grid.lo, x.grid.hi)
        return written is None and torch.equal(fake_quantize(inside, x.grid), inside)

    def _is_function(self, node: Node) -> bool:
        """Whether one number decides the result; a PReLU may have a slope per channel."""
        return all(name in self.graph.constants and self.graph.constants[name].numel() == 1 for name in node.inputs[1:])

    def _float_tensors(self) -> tuple[str, ...]:
        return tuple(
            name
            for name, value in self.raw.items()
            if name != INPUT
            and value.grid is None
            and not all(leads_only_out(self.graph, reader) for reader in self.graph.readers[name])
        )
