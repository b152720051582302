"""Real integer arithmetic at any width up to 8 bits, on oneDNN's uint8 x int8 kernels.

The same grids as `simulate` give the same codes, but for values that lie within float rounding of a tie: both compute
sum(q_x * q_w) * scale + bias and round it, one from an exact 32-bit sum, the other from a float32 one. Codes stay
uint8 from layer to layer; what has no integer form is computed in float in between, and listed.

`lowering` decides what is computed how, `onednn` computes it. Leaves out: grids of more than 8 bits, GPUs, and CPUs
on which products of uint8 and int8 saturate at 16 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, final

import torch
from torch import Tensor, fx, nn

from quant_sweep.engines.base import Engine
from quant_sweep.engines.lowering import (
    Average,
    Compute,
    Layer,
    Lookup,
    Lowered,
    Move,
    Pad,
    Quantize,
    Step,
    Sum,
    lower,
)
from quant_sweep.engines.onednn import Kernel, Placed, kernel_of, why_not_exact
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph
from quant_sweep.graph.operations import Operation, operation_of
from quant_sweep.spec import QParams, QuantSpec

_BITS = 8
# Images that pass through the network together: enough to be worth a call of each kernel, and few enough that the
# largest tensor between two layers stays in the CPU's cache.
_FEWEST_IMAGES, _MOST_IMAGES, _CACHED_BYTES = 16, 128, 2**23
_WRITES_NEW_MEMORY = (Quantize, Lookup, Average, Pad, Sum, Layer)
_LARGEST_WEIGHT, _LARGEST_SUM = 128, 2**31 - 1


@final
class Int8(Engine):
    """Integer kernels of the CPU."""

    def build(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> IntegerNetwork:
        specs = {name: qparams[name].spec for name in graph.names if name in qparams}
        reason = why_not_exact() or why_unsupported(graph, specs)
        if reason is not None:
            raise InputError(f"engine=int8: {reason}; use engine=simulate")
        _check_weights(graph, qparams)
        lowered = lower(graph, qparams)
        _check_layers(graph, qparams, lowered)
        with torch.no_grad():
            return IntegerNetwork(lowered, dict(graph.module.named_modules()), qparams)


@final
class IntegerNetwork(nn.Module):
    """Normalised images, float32 (n, channels, height, width), to logits, float32 (n, classes). It stays on the CPU.

    Attributes:
        float_tensors: names of the tensors inside the network that are computed in float.
    """

    def __init__(self, lowered: Lowered, modules: Mapping[str, nn.Module], qparams: Mapping[str, QParams]) -> None:
        super().__init__()
        self.float_tensors = lowered.float_tensors
        self._images_at_once: int | None = None  # not known before images are seen
        self._images = lowered.images.name
        self._points = dict(lowered.points)
        dying = _last_reads(lowered.steps)
        fresh = _fresh_values(lowered.steps)
        self._program: list[tuple[str, tuple[str, ...], Kernel, tuple[str, ...]]] = []
        for step, dead in zip(lowered.steps, dying, strict=True):
            names = tuple(value.name for value in step.inputs)
            overwrite = len(names) == 2 and names[1] in dead and names[1] in fresh and names[0] != names[1]
            self._program.append((step.out.name, names, kernel_of(step, modules, qparams, overwrite), dead))

    def forward(self, images: Tensor) -> Tensor:
        if self._images_at_once is None:
            self._images_at_once = self._count_images_that_stay_in_cache(images[:_FEWEST_IMAGES])
        logits = [self._run(part, lambda _name, _value: None) for part in images.split(self._images_at_once)]
        return torch.cat(logits)

    def _count_images_that_stay_in_cache(self, images: Tensor) -> int:
        sizes = [1]
        self._run(images, lambda _name, value: sizes.append(value.nbytes) if isinstance(value, Tensor) else None)
        return min(max(_CACHED_BYTES * len(images) // max(sizes), _FEWEST_IMAGES), _MOST_IMAGES)

    def codes(self, images: Tensor) -> dict[str, Tensor]:
        """The codes of every activation that has a grid, int32, by the name of its point; in the grid's own numbers."""
        named: dict[str, list[str]] = {}
        for point, value in self._points.items():
            named.setdefault(value.name, []).append(point)
        found: dict[str, Tensor] = {}

        def keep(name: str, value: Any) -> None:
            for point in named.get(name, []):
                found[point] = value.to(torch.int32) - Placed.of(self._points[point].grid).offset

        self._run(images, keep)
        return {point: found[point] for point in self._points}

    @torch.no_grad()
    def _run(self, images: Tensor, see: Callable[[str, Any], None]) -> Tensor:
        values: dict[str, Any] = {self._images: images.cpu()}
        result: Any = None
        for name, reads, kernel, dead in self._program:
            result = values[name] = kernel(*[values[read] for read in reads])
            see(name, result)
            for read in dead:
                del values[read]
        assert isinstance(result, Tensor)
        return result.to(images.device)


def _last_reads(steps: tuple[Step, ...]) -> list[tuple[str, ...]]:
    """By step, the values that nobody reads after it."""
    last = {value.name: i for i, step in enumerate(steps) for value in (step.out, *step.inputs)}
    return [
        tuple(dict.fromkeys(v.name for v in (*step.inputs, step.out) if last[v.name] == i and i < len(steps) - 1))
        for i, step in enumerate(steps)
    ]


def _fresh_values(steps: tuple[Step, ...]) -> set[str]:
    """Values with memory of their own that no other value shares."""
    shared = {value.name for step in steps if isinstance(step, Move | Compute) for value in step.inputs}
    return {step.out.name for step in steps if isinstance(step, _WRITES_NEW_MEMORY)} - shared


# -- what is refused --


def why_unsupported(graph: QuantGraph, specs: Mapping[str, QuantSpec]) -> str | None:
    """Why `graph` on such grids cannot be computed by integer kernels, on any machine; None if it can.

    Args:
        specs: by tensor name.
    """
    weights = {point.name: graph.module.get_parameter(point.name) for point in graph.weights}
    steps = max((spec.steps for name, spec in specs.items() if name not in weights), default=0)
    for name, spec in specs.items():
        if spec.bits > _BITS:
            return f"{name} has {spec.bits} bits, allowed are 2 to {_BITS}"
        if name not in weights:
            if spec.channel_axis is not None:
                return f"{name} has a grid per channel, allowed is one"
        elif not spec.signed or spec.channel_axis not in (None, 0):
            return f"{name} must be signed, with zero_point 0, per tensor or per output channel"
        elif steps * _LARGEST_WEIGHT * weights[name][0].numel() > _LARGEST_SUM:
            return f"{name}: sums of {weights[name][0].numel()} products can overflow 32 bits"
    return None


def _check_weights(graph: QuantGraph, qparams: Mapping[str, QParams]) -> None:
    for name in (point.name for point in graph.weights):
        if name in qparams and bool(qparams[name].zero_point.any()):
            raise InputError(
                f"engine=int8: {name} must be signed, with zero_point 0, per tensor or per output channel; "
                "use engine=simulate"
            )


def _check_layers(graph: QuantGraph, qparams: Mapping[str, QParams], lowered: Lowered) -> None:
    modules = dict(graph.module.named_modules())
    for step in lowered.steps:
        if isinstance(step, Compute) and operation_of(step.node, modules) is Operation.WEIGHTED:
            weight = f"{step.node.target}.weight"
            missing = weight if weight not in qparams else _tensor_read_by(step.node, graph)
            raise InputError(f"engine=int8: {missing} has no grid; use engine=simulate, where it stays in float")
        if isinstance(step, Layer):
            bias = modules[step.module].bias
            if isinstance(bias, Tensor) and not bool(bias.isfinite().all()):
                raise InputError(f"engine=int8: {step.module}.bias holds NaN or infinity; use a sound checkpoint")


def _tensor_read_by(layer: fx.Node, graph: QuantGraph) -> str:
    """Name of the activation point that feeds `layer`, through whatever only moves values."""
    names = {(point.node, reader): point.name for point in graph.activations for reader in point.readers}
    source, reader = layer.all_input_nodes[0], layer
    while (source.name, reader.name) not in names:
        source, reader = source.all_input_nodes[0], source
    return names[source.name, reader.name]
