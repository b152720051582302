"""Decides for every tensor of a network whether it lives as codes or in float, and who computes it.

A layer takes the residual add and the clamp behind it along, as `graph.points` fused them, and writes codes if
everybody who reads the result reads it on its grid. What only moves codes stays in codes, a concatenation if all its
inputs lie on one grid; a clamp or activation function of codes is a look-up. Everything else is computed in float,
between a dequantize and a quantize, and listed in `float_tensors`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, final

import torch
import torch.nn.functional as F
from torch import fx, nn

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering.steps import (
    Average,
    Compute,
    Dequantize,
    Layer,
    Lookup,
    Lowered,
    Move,
    Pad,
    Quantize,
    Step,
    Sum,
    Value,
    same_grid,
)
from quant_sweep.graph import QuantGraph
from quant_sweep.graph.operations import Operation, operation_of
from quant_sweep.graph.points import fused_operations, leads_only_out, tensor_names

_UNLIMITED = (-math.inf, math.inf)
_CONCATENATIONS = {torch.cat, torch.concat, torch.concatenate}
_SHAPE_METHODS = {"size", "dim", "numel"}
_SHAPE_ATTRIBUTES = {"shape", "device", "ndim"}


def lower(graph: QuantGraph, qparams: Mapping[str, QParams]) -> Lowered:
    """The steps that compute `graph` on the grids of `qparams`.

    Args:
        graph: the network; it is not changed, and the steps refer to its nodes and modules.
        qparams: by tensor name, grids of any width; a tensor without an entry stays in float, and so does a layer
            whose weight or input has none: it becomes a `Compute`.
    """
    return _Lowering(graph, qparams).run()


@final
class _Lowering:
    """The walk over the graph, and what it has written so far."""

    def __init__(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> None:
        self.graph, self.qparams = graph, qparams
        self.modules = dict(graph.module.named_modules())
        self.operations = {node: operation_of(node, self.modules) for node in graph.module.graph.nodes}
        points = [point for point in graph.activations if point.name in qparams]
        self.point_of = {point.node: point for point in points}
        self.steps: list[Step] = []
        self.raw: dict[fx.Node, Value] = {}  # what a node makes
        self.on_grid: dict[fx.Node, Value] = {}  # the same on the grid of its point
        self.in_float: dict[str, Value] = {}  # dequantized values, by the name of the codes
        self.no_tensors: set[fx.Node] = set()  # sizes, constants and what is computed from them alone

    def run(self) -> Lowered:
        chains = self._chains()
        taken_along = {node for chain in chains.values() for node in chain[:-1]}
        for node in self.operations:
            if node.op == "placeholder":
                self.raw[node] = Value(node.name, None)
            elif node in chains:
                self._lower_chain(chains[node])
            elif node not in taken_along:
                self._lower_node(node)
        images = next(value for node, value in self.raw.items() if node.op == "placeholder" and node.users)
        points = {self.point_of[node.name].name: value for node, value in self.on_grid.items()}
        return Lowered(tuple(self.steps), images, points, self._float_tensors())

    # -- who reads what --

    def _reads_on_grid(self, node: fx.Node, reader: fx.Node) -> bool:
        return node.name in self.point_of and reader.name in self.point_of[node.name].readers

    def _written_grid(self, node: fx.Node) -> QParams | None:
        """The grid on which all readers of `node` read it."""
        if node.users and all(self._reads_on_grid(node, user) for user in node.users):
            return self.qparams[self.point_of[node.name].name]
        return None

    def _read(self, node: fx.Node, reader: fx.Node) -> Value:
        if not self._reads_on_grid(node, reader):
            return self.raw[node]
        if node not in self.on_grid:
            self.on_grid[node] = self._put_on_grid(self.raw[node], node)
        return self.on_grid[node]

    def _put_on_grid(self, x: Value, node: fx.Node) -> Value:
        grid = self.qparams[self.point_of[node.name].name]
        if same_grid(x.grid, grid):
            return x
        out = Value(f"{node.name}:codes", grid)
        self.steps.append(Quantize(out, x) if x.grid is None else Lookup(out, x, None, _UNLIMITED))
        return out

    def _as_float(self, x: Value) -> Value:
        if x.grid is None:
            return x
        if x.name not in self.in_float:
            self.in_float[x.name] = Value(f"{x.name}:float", None)
            self.steps.append(Dequantize(self.in_float[x.name], x))
        return self.in_float[x.name]

    def _write(self, node: fx.Node, grid: QParams | None) -> Value:
        """The value of `node`, on the grid of its point if that is the one given."""
        value = Value(node.name, grid)
        self.raw[node] = value
        if node.name in self.point_of and same_grid(grid, self.qparams[self.point_of[node.name].name]):
            self.on_grid[node] = value
        return value

    # -- layers and sums --

    def _chains(self) -> dict[fx.Node, list[fx.Node]]:
        """Each layer, and each sum that no layer takes along, with what is fused into it; by its last node."""
        layers = (node for node, op in self.operations.items() if op is Operation.WEIGHTED and self._has_grids(node))
        chains = [self._written_part(fused_operations(node, self.operations)) or [node] for node in layers]
        fused = {node for chain in chains for node in chain}
        sums = (node for node, op in self.operations.items() if op is Operation.ADD and node not in fused)
        chains += [chain for chain in (self._written_part(self._sum_and_clamp(node)) for node in sums) if chain]
        return {chain[-1]: chain for chain in chains}

    def _sum_and_clamp(self, add: fx.Node) -> list[fx.Node]:
        reader = next(iter(add.users)) if len(add.users) == 1 else None
        return [add, reader] if reader is not None and self.operations[reader] is Operation.CLAMP else [add]

    def _written_part(self, chain: list[fx.Node]) -> list[fx.Node]:
        """As much of `chain` as can be rounded once, at its end; [] if no end of it is written as codes."""
        cut = (i for i in range(1, len(chain)) if self._reads_on_grid(chain[i - 1], chain[i]))
        chain = chain[: next(cut, len(chain))]
        while chain and self._written_grid(chain[-1]) is None:
            chain = chain[:-1]
        return chain

    def _has_grids(self, layer: fx.Node) -> bool:
        """Whether the weight and the input of `layer` lie on grids."""
        if f"{layer.target}.weight" not in self.qparams or len(layer.all_input_nodes) != 1:
            return False
        source, reader = layer.all_input_nodes[0], layer
        while not self._reads_on_grid(source, reader) and self.operations[source] is Operation.KEEP:
            source, reader = source.all_input_nodes[0], source
        return self._reads_on_grid(source, reader)

    def _lower_chain(self, chain: list[fx.Node]) -> None:
        """One step if all it reads is codes, else one for each node."""
        start, end = chain[0], chain[-1]
        add = next((node for node in chain if self.operations[node] is Operation.ADD), None)
        limits = next((self._limits(node) for node in chain if self.operations[node] is Operation.CLAMP), _UNLIMITED)
        if self.operations[start] is Operation.WEIGHTED:
            x = self._read(start.all_input_nodes[0], start)
            residual = None if add is None else self._read(_other_operand(add, start), add)
            if x.grid is not None and (residual is None or residual.grid is not None):
                out = self._write(end, self._written_grid(end))
                self.steps.append(Layer(out, str(start.target), x, residual, limits))
                return
        elif add is not None:
            x, y = (self._read(arg, add) for arg in add.args if isinstance(arg, fx.Node))
            if x.grid is not None and y.grid is not None:
                self.steps.append(Sum(self._write(end, self._written_grid(end)), x, y, limits))
                return
        for node in chain:
            self._lower_node(node)

    def _limits(self, node: fx.Node) -> tuple[float, float]:
        """Between what a clamp cuts off."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if isinstance(module, nn.Hardtanh):  # and ReLU6, which is one
            return float(module.min_val), float(module.max_val)
        if node.target is F.relu6:
            return 0.0, 6.0
        if node.target is F.hardtanh:
            lowest, highest = (_argument(node, 1, "min_val", -1.0), _argument(node, 2, "max_val", 1.0))
            return float(lowest), float(highest)
        return 0.0, math.inf

    # -- single operations --

    def _lower_node(self, node: fx.Node) -> None:
        reads = {source: self._read(source, node) for source in node.all_input_nodes}
        operation = self.operations[node]
        x = next(iter(reads.values()), None)
        if operation is Operation.WEIGHTED and x is not None and x.grid is not None and self._has_grids(node):
            self.steps.append(Layer(self._write(node, None), str(node.target), x, None, _UNLIMITED))
        elif self._asks_for_shape(node):
            self.no_tensors.add(node)
            self.steps.append(Compute(self._write(node, None), node, reads))
        elif x is None or x.grid is None or not self._lower_on_codes(node, operation, reads, x):
            self._compute(node, reads)

    def _lower_on_codes(self, node: fx.Node, operation: Operation, reads: dict[fx.Node, Value], x: Value) -> bool:
        """Write the step of an operation whose input `x` is codes; False if it has none."""
        written = self._written_grid(node)
        if operation is Operation.KEEP and all(source in self.no_tensors for source in list(reads)[1:]):
            return self._lower_keep(node, reads, x)
        if node.target in _CONCATENATIONS and all(same_grid(value.grid, x.grid) for value in reads.values()):
            self.steps.append(Move(self._write(node, x.grid), node, reads))
        elif operation is Operation.CLAMP and self._clamps_codes(node, x, written):
            self.steps.append(Lookup(self._write(node, x.grid), x, node, self._limits(node)))
        elif written is not None and operation in {Operation.CLAMP, Operation.ACTIVATION} and self._is_function(node):
            limits = self._limits(node) if operation is Operation.CLAMP else None
            self.steps.append(Lookup(self._write(node, written), x, node, limits))
        elif written is not None and operation is Operation.AVERAGE:
            self.steps.append(Average(self._write(node, written), x, node))
        else:
            return False
        return True

    def _lower_keep(self, node: fx.Node, reads: dict[fx.Node, Value], x: Value) -> bool:
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        if getattr(module, "return_indices", False) or node.kwargs.get("return_indices", False):
            return False
        if isinstance(module, nn.ZeroPad2d):
            self.steps.append(Pad(self._write(node, x.grid), x, tuple(module.padding)))
        elif node.target is F.pad and _argument(node, 2, "mode", "constant") == "constant":
            padding = _argument(node, 1, "pad", ())
            if not all(isinstance(size, int) for size in padding):
                return False
            self.steps.append(Pad(self._write(node, x.grid), x, tuple(padding)))
        else:
            self.steps.append(Move(self._write(node, x.grid), node, reads))
        return True

    def _clamps_codes(self, node: fx.Node, x: Value, written: QParams | None) -> bool:
        """Whether a clamp leads from codes to codes of the same grid: what it cuts off at lies on it, or outside."""
        assert x.grid is not None
        if same_grid(x.grid, written):
            return True
        limits = torch.tensor(self._limits(node))
        inside = limits.clamp(x.grid.lo, x.grid.hi)
        return written is None and torch.equal(fake_quantize(inside, x.grid), inside)

    def _is_function(self, node: fx.Node) -> bool:
        """Whether one number decides the result; a PReLU may have a slope per channel."""
        module = self.modules[str(node.target)] if node.op == "call_module" else None
        return len(node.all_input_nodes) == 1 and not (isinstance(module, nn.PReLU) and module.num_parameters > 1)

    def _asks_for_shape(self, node: fx.Node) -> bool:
        if node.op == "get_attr":
            return True
        if node.op == "call_method" and node.target in _SHAPE_METHODS:
            return True
        if node.op == "call_function" and node.target is getattr:
            return node.args[1] in _SHAPE_ATTRIBUTES
        sources = node.all_input_nodes
        return node.op != "output" and all(source in self.no_tensors for source in sources)

    def _compute(self, node: fx.Node, reads: dict[fx.Node, Value]) -> None:
        in_float = {source: self._as_float(value) for source, value in reads.items()}
        self.steps.append(Compute(self._write(node, None), node, in_float))

    def _float_tensors(self) -> tuple[str, ...]:
        names = tensor_names(self.graph.module.graph)
        return tuple(
            names[node]
            for node, value in self.raw.items()
            if value.grid is None
            and node.op not in {"placeholder", "output"}
            and node not in self.no_tensors
            and not all(leads_only_out(user, self.operations) for user in node.users)
        )


def _other_operand(add: fx.Node, one: fx.Node) -> fx.Node:
    return next(arg for arg in add.all_input_nodes if arg is not one)


def _argument(node: fx.Node, position: int, name: str, default: Any) -> Any:
    return node.args[position] if len(node.args) > position else node.kwargs.get(name, default)
