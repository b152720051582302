"""How large a network is when it is stored in few bits."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from quant_sweep.graph import QuantGraph

_FLOAT_BITS = 32
_MEGABYTE_BITS = 8e6


def float_megabytes(model: nn.Module) -> float:
    """Parameters and buffers in float32, 10**6 bytes."""
    numbers: int = sum(tensor.numel() for tensor in model.state_dict().values())
    return _FLOAT_BITS * numbers / _MEGABYTE_BITS


def quantized_megabytes(graph: QuantGraph, weight_bits: Mapping[str, int]) -> float:
    """Weights in their bits, packed; everything else in float32, 10**6 bytes. Scales and zero-points are left out.

    Args:
        graph: after folding, so that a folded BatchNorm costs nothing.
        weight_bits: width by the name of each weight.
    """
    weights = {name: graph.graph.constants[name].numel() for name in weight_bits}
    others = sum(tensor.numel() for tensor in graph.graph.constants.values()) - sum(weights.values())
    packed = sum(count * weight_bits[name] for name, count in weights.items())
    return (packed + _FLOAT_BITS * others) / _MEGABYTE_BITS
