"""How grids are laid: which kind of grid a weight and an activation get, and how many bits each tensor has."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph, after_clamp

FLOAT: Final = "float"
Width: TypeAlias = int | Literal["float"]  # bits; a tensor in float has no grid


@dataclass(frozen=True)
class Scheme:
    """The kind of grid of weights and activations.

    Attributes:
        weight_per_channel: one scale per output channel, else one per weight tensor.
        weight_narrow_range: leave out the lowest code of weights (-127..127), as integer kernels like it.
        activation_symmetric: signed grids mirrored about 0, as the original study has them; after a ReLU half the
            codes stay unused. Else unsigned with a zero-point.
        activation_narrow_range: leave out the lowest code of activations too, as the original study's code does.
        same_grid_around_relu: where a tensor is rounded before *and* after a ReLU or another clamp, as fusion=bn and
            none have it, lay the grid of the second over the first too. Rounding then already clips, and doing it
            again changes nothing. Else each has the grid of its own range.

    Weights are always signed and symmetric, so that no zero-point of theirs enters the integer sums.

    Raises:
        InputError: a value is neither true nor false.
    """

    weight_per_channel: bool
    weight_narrow_range: bool
    activation_symmetric: bool
    activation_narrow_range: bool = False
    same_grid_around_relu: bool = False

    def __post_init__(self) -> None:
        for key, value in vars(self).items():
            if not isinstance(value, bool):  # the text "off" would count as true
                raise InputError(f"{key}={value!r}: allowed are true and false")

    def weight(self, bits: int) -> QuantSpec:
        axis = 0 if self.weight_per_channel else None
        return QuantSpec(bits, signed=True, symmetric=True, narrow_range=self.weight_narrow_range, channel_axis=axis)

    def activation(self, bits: int) -> QuantSpec:
        mirrored, narrow = self.activation_symmetric, self.activation_narrow_range
        return QuantSpec(bits, signed=mirrored, symmetric=mirrored, narrow_range=narrow)

    def tied(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> dict[str, QParams]:
        """Grids as observers chose them -> the grids to use: the same, but for those before a ReLU that are tied."""
        after = after_clamp(graph) if self.same_grid_around_relu else {}
        return {name: qparams.get(after.get(name, name), grid) for name, grid in qparams.items()}


AFFINE = Scheme(weight_per_channel=True, weight_narrow_range=True, activation_symmetric=False)


@dataclass(frozen=True)
class BitWidths:
    """How many bits each tensor has.

    Attributes:
        weights, activations: 2 to 16.
        overrides: other widths for some tensors, by name (`input`, `conv1.weight`) or by a leading part of the name
            up to a dot (`linear`, `layer1.0`); the longest match counts. "float" keeps a tensor in float.
    """

    weights: int
    activations: int
    overrides: Mapping[str, Width]


def assign_specs(graph: QuantGraph, scheme: Scheme, widths: BitWidths) -> dict[str, QuantSpec]:
    """The grid of every quantized tensor of `graph`, by its name; one that stays in float has none.

    Raises:
        InputError: a width is not 2 to 16, or an override names no tensor of the network.
    """
    for name in widths.overrides:
        if not any(_covers(name, tensor) for tensor in graph.names):
            known = ", ".join(graph.names)
            raise InputError(f"overrides.{name}: no quantized tensor is called or begins like this; there are {known}")
    assigned = {p.name: _width(p.name, widths.activations, widths.overrides) for p in graph.activations}
    specs = {name: scheme.activation(bits) for name, bits in assigned.items() if bits != FLOAT}
    assigned = {p.name: _width(p.name, widths.weights, widths.overrides) for p in graph.weights}
    return specs | {name: scheme.weight(bits) for name, bits in assigned.items() if bits != FLOAT}


def _width(tensor: str, default: int, overrides: Mapping[str, Width]) -> Width:
    matches = [name for name in overrides if _covers(name, tensor)]
    return overrides[max(matches, key=len)] if matches else default


def _covers(name: str, tensor: str) -> bool:
    return tensor == name or tensor.startswith(f"{name}.")
