"""Where a layer stands in the quantized network: what it reads, what is fused into it, what is done with its output.

Nothing is decided here: `engines.lowering` says what is computed on codes and what in float, this reads it off.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering import (
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
    lower,
)
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, QuantGraph
from quant_sweep.graph.operations import Operation, operation_of

_NORMALIZATIONS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


@final
@dataclass(frozen=True, eq=False)
class Dataflow:
    """One layer of a quantized network with its neighbourhood.

    Attributes:
        step: what it reads, adds, cuts off and writes.
        module: the float layer, BatchNorm folded unless fusion is none.
        weight_grid: the grid of its weight.
        after: what is done with its output, one after the other, up to and with the activation function; empty where
            that is fused into the layer.
        points: the quantization point of each value that was written there.
        moved: the point whose codes a value holds that were only moved, pooled or padded since.
        labels: what to call the steps of `after`, by the value that they write.
        folded: whether a BatchNorm was folded into the weight.
    """

    step: Layer
    module: nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear
    weight_grid: QParams
    after: tuple[Step, ...]
    points: Mapping[str, str]
    moved: Mapping[str, str]
    labels: Mapping[str, str]
    folded: bool

    @property
    def x_grid(self) -> QParams:
        assert self.step.x.grid is not None  # a Layer reads codes
        return self.step.x.grid

    @property
    def weight(self) -> Tensor:
        """Float, with the output channels on axis 0."""
        return self.module.weight.detach()

    @property
    def channel_axis(self) -> int:
        """Axis of the output that counts the channels."""
        return -1 if isinstance(self.module, nn.Linear) else 1

    @property
    def values(self) -> tuple[Value, ...]:
        """All that is read and written on the way, in order."""
        residual = () if self.step.residual is None else (self.step.residual,)
        return (self.step.x, *residual, self.step.out, *(step.out for step in self.after))

    def point(self, value: Value) -> str | None:
        """Name of the tensor whose codes a value holds."""
        return self.points.get(value.name) or self.moved.get(value.name)

    @property
    def written(self) -> Value | None:
        """The first value behind the sum that lies on a grid; None if the result stays in float, as logits do."""
        outs = (self.step.out, *(step.out for step in self.after))
        return next((value for value in outs if value.grid is not None), None)


def find_layer(graph: QuantGraph, qparams: Mapping[str, QParams], layer: str) -> Dataflow:
    """The dataflow of the convolution or linear layer called `layer`.

    Raises:
        InputError: there is none of that name.
    """
    check_layer(graph, layer)
    lowered = lower(graph, qparams)
    step = next((s for s in lowered.steps if isinstance(s, Layer) and s.module == layer), None)
    if step is None:
        raise InputError(f"layer={layer}: its weight or its input has no grid, so it is computed in float")
    module = graph.module.get_submodule(layer)
    assert isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)
    modules = dict(graph.module.named_modules())
    after = tuple(_after(step, lowered, modules))
    return Dataflow(
        step=step,
        module=module,
        weight_grid=qparams[f"{layer}.weight"],
        after=after,
        points={value.name: point for point, value in lowered.points.items()},
        moved=_moved(lowered),
        labels={behind.out.name: _label(behind, modules) for behind in after},
        folded=graph.fusion is not Fusion.none,
    )


def check_layer(graph: QuantGraph, layer: str) -> None:
    """Refuse a name that no convolution or linear layer of the network has; needs no grids, so it can come first.

    Raises:
        InputError: naming those that there are.
    """
    known = [point.module for point in graph.weights]
    if layer not in known:
        names = ", ".join(known)
        raise InputError(f"layer={layer}: no convolution or linear layer is called like this; there are {names}")


def _moved(lowered: Lowered) -> dict[str, str]:
    """The point whose codes a value holds that were only moved, pooled or padded since."""
    sources = {value.name: point for point, value in lowered.points.items()}
    moved = dict[str, str]()
    for step in lowered.steps:
        if isinstance(step, Move | Pad) and (source := (sources | moved).get(step.inputs[0].name)) is not None:
            moved[step.out.name] = source
    return moved


def _after(step: Layer, lowered: Lowered, modules: Mapping[str, nn.Module]) -> list[Step]:
    """The steps behind a layer up to its activation function, which may be part of the layer."""
    steps: list[Step] = []
    value, activated = step.out, any(abs(limit) != float("inf") for limit in step.limits)
    while not activated:
        readers = [s for s in lowered.steps if any(read.name == value.name for read in s.inputs)]
        reader = next((s for s in readers if _continues(s, modules)), None)
        if reader is None:
            return steps
        steps.append(reader)
        value, activated = reader.out, _activates(reader, modules)
    if steps and value.grid is None:
        steps += [s for s in lowered.steps if isinstance(s, Quantize) and s.x.name == value.name][:1]
    return steps


def _continues(step: Step, modules: Mapping[str, nn.Module]) -> bool:
    """Whether a step is part of what a complete convolution layer does: normalise, add, activate, round."""
    if not isinstance(step, Compute):
        return isinstance(step, Quantize | Dequantize | Lookup | Sum)
    if isinstance(modules.get(str(step.node.target)), _NORMALIZATIONS) and step.node.op == "call_module":
        return True
    return operation_of(step.node, dict(modules)) in {Operation.ADD, Operation.CLAMP, Operation.ACTIVATION}


def _activates(step: Step, modules: Mapping[str, nn.Module]) -> bool:
    if isinstance(step, Lookup):
        return step.node is not None
    if isinstance(step, Sum):
        return any(abs(limit) != float("inf") for limit in step.limits)
    return isinstance(step, Compute) and operation_of(step.node, dict(modules)) in {
        Operation.CLAMP,
        Operation.ACTIVATION,
    }


def _label(step: Step, modules: Mapping[str, nn.Module]) -> str:
    if isinstance(step, Sum):
        return "sum with the residual, then ReLU" if step.limits[0] == 0.0 else "sum with the residual"
    if isinstance(step, Compute | Lookup) and step.node is not None:
        module = modules.get(str(step.node.target)) if step.node.op == "call_module" else None
        return step.node.name if module is None else f"{type(module).__name__} ({step.node.target})"
    return "dequantized" if isinstance(step, Dequantize) else "put on the next grid"


def node_of(value: Value) -> str:
    """Name of the graph node whose tensor a value holds, as codes or in float."""
    return value.name.partition(":")[0]
