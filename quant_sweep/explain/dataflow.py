"""The place of a layer in the quantized network: what it reads, what is fused into it, what is done with its output.

Nothing is decided here: `engines.lowering` says what is computed on codes and what in float, this reads it off.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import (
    Compute,
    Dequantize,
    Layer,
    Lookup,
    Lowered,
    Moved,
    Padded,
    Quantize,
    Step,
    Sum,
    Value,
    lower,
)
from quant_sweep.errors import InputError
from quant_sweep.graph import Graph, QuantGraph
from quant_sweep.graph.operations import Activation, Add, BatchNorm, ChannelAffine, Clamp, Linear, Operation
from quant_sweep.graph.quantizers import kind_of

_WEIGHT = ".weight"


@final
@dataclass(frozen=True, eq=False)
class Dataflow:
    """One layer of a quantized network, with what comes before and after it.

    Attributes:
        step: what it reads, adds, cuts off and writes.
        weight: float, output channels on axis 0; BatchNorm folded unless fusion is none.
        bias: float (out,), likewise; None where the layer has none.
        weight_grid: the grid of the weight.
        calls: how often the network calls the layer; `step` is the first call.
        after: what is done with its output, one after the other, up to and with the activation function; empty where
            that is fused into the layer.
        written: the quantizer of each value that was written on its grid.
        moved: the quantizer whose codes a value holds that were only moved, pooled or padded since.
        labels: what to call the steps of `after`, by the value that they write.
        folded: whether BatchNorms of the network were folded into weights.
    """

    step: Layer
    weight: Tensor
    bias: Tensor | None
    weight_grid: QParams
    calls: int
    after: tuple[Step, ...]
    written: Mapping[str, str]
    moved: Mapping[str, str]
    labels: Mapping[str, str]
    folded: bool

    @property
    def x_grid(self) -> QParams:
        assert self.step.x.grid is not None  # a Layer reads codes
        return self.step.x.grid

    @property
    def channel_axis(self) -> int:
        """Axis of the output that counts the channels."""
        return -1 if isinstance(self.step.operation, Linear) else 1

    @property
    def values(self) -> tuple[Value, ...]:
        """All that is read and written on the way, in order."""
        residual = () if self.step.residual is None else (self.step.residual,)
        return (self.step.x, *residual, self.step.out, *(step.out for step in self.after))

    def quantizer(self, value: Value) -> str | None:
        """Name of the tensor whose codes a value holds."""
        return self.written.get(value.name) or self.moved.get(value.name)

    @property
    def on_grid(self) -> Value | None:
        """The first value after the sum that lies on a grid; None if the result stays in float, as logits do."""
        outs = (self.step.out, *(step.out for step in self.after))
        return next((value for value in outs if value.grid is not None), None)


def find_layer(graph: QuantGraph, qparams: Mapping[str, QParams], layer: str) -> Dataflow:
    """The dataflow of the convolution or linear layer called `layer`.

    Raises:
        InputError: there is none of that name, or it is computed in float.
    """
    check_layer(graph, layer)
    (quantizer,) = (q for q in graph.weights if layer_name(q.name) == layer)
    lowered = lower(graph, qparams)
    step = next((s for s in lowered.steps if isinstance(s, Layer) and s.weight == quantizer.name), None)
    if step is None:
        raise InputError(f"layer={layer}: its weight or its input has no grid, so it is computed in float")
    after = tuple(_after(step, lowered))
    constants = graph.graph.constants
    return Dataflow(
        step=step,
        weight=constants[step.weight],
        bias=None if step.bias is None else constants[step.bias],
        weight_grid=qparams[step.weight],
        calls=len(quantizer.layers),
        after=after,
        written={value.name: name for name, value in lowered.quantized.items()},
        moved=_moved(lowered),
        labels={later.out.name: _label(later, graph.graph) for later in after},
        folded=graph.fusion.value != "none",
    )


def check_layer(graph: QuantGraph, layer: str) -> None:
    """Refuse a name that no convolution or linear layer of the network has; needs no grids, so it can come first.

    Raises:
        InputError: naming those that there are.
    """
    known = [layer_name(quantizer.name) for quantizer in graph.weights]
    if layer not in known:
        names = ", ".join(known)
        raise InputError(f"layer={layer}: no convolution or linear layer is called like this; there are {names}")


def layer_name(weight: str) -> str:
    """What a layer is called, from the name of its weight."""
    return weight.removesuffix(_WEIGHT)


def tensor_of(value: Value) -> str:
    """Name of the graph's tensor that a value holds, as codes or in float."""
    return value.name.partition(":")[0]


def _moved(lowered: Lowered) -> dict[str, str]:
    """The quantizer whose codes a value holds that were only moved, pooled or padded since."""
    sources = {value.name: name for name, value in lowered.quantized.items()}
    moved = dict[str, str]()
    for step in lowered.steps:
        if isinstance(step, Moved | Padded) and (source := (sources | moved).get(step.inputs[0].name)) is not None:
            moved[step.out.name] = source
    return moved


def _after(step: Layer, lowered: Lowered) -> list[Step]:
    """The steps after a layer up to its activation function, which may be part of the layer."""
    steps: list[Step] = []
    value, activated = step.out, any(math.isfinite(limit) for limit in step.limits)
    while not activated:
        readers = (s for s in lowered.steps if any(read.name == value.name for read in s.inputs))
        reader = next((s for s in readers if _continues(s)), None)
        if reader is None:
            return steps
        steps.append(reader)
        value, activated = reader.out, _activates(reader)
    if steps and value.grid is None:
        steps += [s for s in lowered.steps if isinstance(s, Quantize) and s.x.name == value.name][:1]
    return steps


def _continues(step: Step) -> bool:
    """Whether a step is part of what a complete convolution layer does: normalise, add, activate, round."""
    if isinstance(step, Compute):
        return isinstance(step.operation, BatchNorm | ChannelAffine | Add | Clamp | Activation)
    return isinstance(step, Quantize | Dequantize | Lookup | Sum)


def _activates(step: Step) -> bool:
    if isinstance(step, Sum):
        return any(math.isfinite(limit) for limit in step.limits)
    return isinstance(step, Compute | Lookup) and isinstance(step.operation, Clamp | Activation)


def _label(step: Step, graph: Graph) -> str:
    if isinstance(step, Sum):
        return (
            f"sum with the residual, then {clamp_name(*step.limits)}" if _activates(step) else "sum with the residual"
        )
    if isinstance(step, Compute | Lookup) and step.operation is not None:
        module = graph.node[tensor_of(step.out)].module
        name = _operation_name(step.operation)
        return f"{name} ({module})" if module else name
    return "dequantized" if isinstance(step, Dequantize) else "put on the next grid"


def _operation_name(operation: Operation) -> str:
    return clamp_name(operation.lo, operation.hi) if isinstance(operation, Clamp) else kind_of(operation)


def clamp_name(lowest: float, highest: float) -> str:
    """What a clamp is called, by the real values between which it lets pass."""
    known = {(0.0, math.inf): "ReLU", (0.0, 6.0): "ReLU6"}
    return known.get((lowest, highest), f"clamp to [{lowest:g}, {highest:g}]")
