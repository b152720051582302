"""What passes through a layer: its tensors in the float network, simulated, and as an engine has them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import dequantize, quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines import Simulate
from quant_sweep.engines.lowering import NetworkOfCodes, Value
from quant_sweep.explain.dataflow import Dataflow, tensor_of
from quant_sweep.graph import Network, QuantGraph, insert_at_quantizers, weights_on_grid
from quant_sweep.histograms.summary import Summary
from quant_sweep.observers import Observer


@final
@dataclass(frozen=True, eq=False)
class Subject:
    """A quantized network that can be explained.

    Attributes:
        graph: the float network with its quantizers.
        qparams: the grid of every tensor, by its name.
        summaries: what calibration kept, by the name of each activation quantizer.
        observer, weight_observer: that chose the grids.
        network: what an engine built of them.
        engine: its name.
    """

    graph: QuantGraph
    qparams: Mapping[str, QParams]
    summaries: Mapping[str, Summary]
    observer: Observer
    weight_observer: Observer
    network: nn.Module
    engine: str


@final
@dataclass(frozen=True, eq=False)
class Recording:
    """One batch on its way through a layer and what comes after it.

    Attributes:
        dataflow: of the layer.
        original: tensors of the float network, by name.
        simulated: tensors before they are rounded, in float32 arithmetic on the values that their inputs' codes stand
            for; by name. Where the engine has codes, what is read are the engine's.
        engine: codes of an integer engine, by the name of the quantizer; empty for `simulate`.
    """

    dataflow: Dataflow
    original: Mapping[str, Tensor]
    simulated: Mapping[str, Tensor]
    engine: Mapping[str, Tensor]

    def before_rounding(self, value: Value) -> Tensor:
        """What is simulated of a value; real units, float32."""
        return self.simulated[tensor_of(value)]

    def in_float(self, value: Value) -> Tensor:
        """The same tensor in the float network."""
        return self.original[tensor_of(value)]

    def simulated_codes(self, value: Value) -> Tensor:
        """What the simulation rounds it to, int32; the value must lie on a grid."""
        assert value.grid is not None
        return quantize(self.before_rounding(value), value.grid)

    def engine_codes(self, value: Value) -> Tensor | None:
        """What an integer engine wrote, int32; None where none ran, or it does not show this value."""
        return self.engine.get(self.dataflow.written.get(value.name, ""))

    def codes(self, value: Value) -> Tensor:
        """What the next layer reads, int32: the engine's codes, or else the simulation's."""
        own = self.engine_codes(value)
        return self.simulated_codes(value) if own is None else own

    def codes_read(self) -> tuple[Tensor, Tensor | None]:
        """The codes that the layer reads: its input, and what it adds."""
        step = self.dataflow.step
        return self.codes(step.x), None if step.residual is None else self.codes(step.residual)


@torch.no_grad()
def record(subject: Subject, images: Tensor, dataflow: Dataflow) -> Recording:
    """Run a batch through the float network and through the quantized one.

    Args:
        images: normalised, float32 (n, ...), on the CPU.
    """
    graph, qparams, network = subject.graph, subject.qparams, subject.network
    engine = network.codes(images) if isinstance(network, NetworkOfCodes) else {}
    simulation: nn.Module
    if engine:
        given = {name: _given(dequantize(codes, qparams[name])) for name, codes in engine.items()}
        simulation = insert_at_quantizers(graph, given, weights_on_grid(graph, qparams))
    else:
        simulation = Simulate().build(graph, qparams)
    assert isinstance(simulation, Network)
    tensors = {tensor_of(value) for value in dataflow.values}
    original = Network(graph.graph).values(images, tensors.__contains__)
    return Recording(dataflow, original, simulation.values(images, tensors.__contains__), engine)


def _given(values: Tensor) -> Callable[[Tensor], Tensor]:
    """A function that returns these values, whatever it is given."""
    return lambda _x: values
