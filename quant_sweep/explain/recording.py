"""What passes through a layer: its tensors in the float network, simulated, and as an engine has them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines import Simulate
from quant_sweep.engines.lowering import NetworkOfCodes, Value
from quant_sweep.explain.dataflow import Dataflow, node_of
from quant_sweep.graph import QuantGraph, insert_at_points, put_weights_on_grid


@final
@dataclass(frozen=True, eq=False)
class Recording:
    """One batch on its way through a layer and what follows it.

    Attributes:
        dataflow: of the layer.
        original: tensors of the float network, by the names of graph nodes.
        simulated: tensors before they are rounded, in float32 arithmetic on the values that their inputs' codes stand
            for; by the names of graph nodes. Where the engine has codes, what is read are the engine's.
        engine: codes of an integer engine, by the name of the point; empty for `simulate`.
    """

    dataflow: Dataflow
    original: Mapping[str, Tensor]
    simulated: Mapping[str, Tensor]
    engine: Mapping[str, Tensor]

    def before_rounding(self, value: Value) -> Tensor:
        """What is simulated of a value; real units, float32."""
        return self.simulated[node_of(value)]

    def simulated_codes(self, value: Value) -> Tensor:
        """What the simulation rounds it to, int32; the value must lie on a grid."""
        assert value.grid is not None
        return quantize(self.before_rounding(value), value.grid)

    def engine_codes(self, value: Value) -> Tensor | None:
        """What an integer engine wrote, int32; None where none ran, or it does not show this value."""
        return self.engine.get(self.dataflow.points.get(value.name, ""))

    def codes(self, value: Value) -> Tensor:
        """What the next layer reads, int32: the engine's codes, or else the simulation's."""
        own = self.engine_codes(value)
        return self.simulated_codes(value) if own is None else own


@torch.no_grad()
def record(
    graph: QuantGraph, qparams: Mapping[str, QParams], network: nn.Module, images: Tensor, dataflow: Dataflow
) -> Recording:
    """Run a batch through the float network and through the quantized one.

    Args:
        network: what an engine built of `graph` and `qparams`.
        images: normalised, float32 (n, channels, height, width), on the CPU.
    """
    nodes = {node_of(value) for value in dataflow.values}
    engine = network.codes(images) if isinstance(network, NetworkOfCodes) else {}
    simulation: nn.Module
    if engine:
        simulation = insert_at_points(graph, {name: _Replace(own, qparams[name]) for name, own in engine.items()})
        put_weights_on_grid(simulation, graph, qparams)
    else:
        simulation = Simulate().build(graph, qparams)
    return Recording(dataflow, _kept(graph.module, images, nodes), _kept(simulation, images, nodes), engine)


def _kept(network: nn.Module, images: Tensor, nodes: Collection[str]) -> dict[str, Tensor]:
    assert isinstance(network, fx.GraphModule)
    interpreter = _Keep(network, nodes)
    interpreter.run(images)
    return interpreter.kept


class _Keep(fx.Interpreter):
    """Runs a graph and keeps the tensors of some nodes."""

    def __init__(self, network: fx.GraphModule, nodes: Collection[str]) -> None:
        super().__init__(network)
        self.nodes, self.kept = nodes, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        if n.name in self.nodes:
            self.kept[n.name] = result
        return result


class _Replace(nn.Module):
    """Passes on what given codes stand for, whatever comes."""

    def __init__(self, codes: Tensor, grid: QParams) -> None:
        super().__init__()
        self.real = dequantize(codes, grid)

    def forward(self, x: Tensor) -> Tensor:  # noqa: ARG002
        return self.real
