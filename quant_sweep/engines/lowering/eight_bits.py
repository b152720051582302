"""What codes of 8 bits and sums of 32 bits can hold, and what they cannot."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.lowering.steps import Compute, Layer, Lowered
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph
from quant_sweep.graph.operations import Weighted
from quant_sweep.graph.quantizers import source_of

_BITS = 8
_LARGEST_WEIGHT, _LARGEST_SUM = 128, 2**31 - 1


def why_unsupported(graph: QuantGraph, specs: Mapping[str, QuantSpec]) -> str | None:
    """Why `graph` on such grids cannot be computed by integer kernels, on any machine; None if it can.

    Args:
        specs: by tensor name.
    """
    weights = {quantizer.name: graph.graph.constants[quantizer.name] for quantizer in graph.weights}
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


def why_without_layers(graph: QuantGraph, specs: Collection[str]) -> str | None:
    """What leaves kernels of 8 bits without a layer to compute; None if they have one, or there is none.

    Args:
        specs: names of the tensors that are on grids.
    """
    layers = [layer for quantizer in graph.weights for layer in quantizer.layers]
    if not layers or any(_is_on_grids(graph, layer, specs) for layer in layers):
        return None
    return "no layer has both its weight and its input on grids"


def _is_on_grids(graph: QuantGraph, layer: str, specs: Collection[str]) -> bool:
    node = graph.graph.node[layer]
    return node.inputs[1] in specs and source_of(graph.graph, node.inputs[0], layer)[0] in specs


def largest_product(graph: QuantGraph, specs: Mapping[str, QuantSpec]) -> tuple[int, int]:
    """The largest product in a layer: a code, counted from the lowest of its grid, and the magnitude of a weight."""
    products = [(0, 0)]
    for quantizer in graph.weights:
        for name in quantizer.layers:
            if _is_on_grids(graph, name, specs):
                layer, weight = graph.graph.node[name], specs[quantizer.name]
                source, _ = source_of(graph.graph, layer.inputs[0], name)
                products.append((specs[source].steps, max(-weight.qmin, weight.qmax)))
    return max(products, key=lambda product: product[0] * product[1])


def check_weights(engine: str, graph: QuantGraph, qparams: Mapping[str, QParams]) -> None:
    """Refuse what `why_unsupported` cannot see in the kind of a grid.

    Raises:
        InputError: a weight's grid has a zero-point.
    """
    for name in (quantizer.name for quantizer in graph.weights):
        if name in qparams and bool(qparams[name].zero_point.any()):
            raise InputError(
                f"engine={engine}: {name} must be signed, with zero_point 0, per tensor or per output channel; "
                "use engine=simulate"
            )


def check_layers(graph: QuantGraph, qparams: Mapping[str, QParams], lowered: Lowered) -> None:
    """Refuse layers that integers alone cannot compute.

    Raises:
        InputError: a layer's weight or input has no grid.
    """
    for step in lowered.steps:
        if isinstance(step, Compute) and isinstance(step.operation, Weighted):
            node = graph.graph.node[step.out.name]
            source, _ = source_of(graph.graph, node.inputs[0], node.name)
            missing = node.inputs[1] if node.inputs[1] not in qparams else source
            raise InputError(
                f"engine=integer: {missing} has no grid; use engine=int8 or simulate, where it stays in float"
            )


def check_biases(engine: str, graph: QuantGraph, lowered: Lowered) -> None:
    """Refuse a layer whose bias holds NaN or infinity.

    Raises:
        InputError: see above.
    """
    for step in lowered.steps:
        bias = step.bias if isinstance(step, Layer) else None
        if bias is not None and not bool(graph.graph.constants[bias].isfinite().all()):
            raise InputError(f"engine={engine}: {bias} holds NaN or infinity; use a sound checkpoint")
