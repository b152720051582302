"""The steps of a quantized network: what is computed on codes, what in float, and where one becomes the other.

A value is held either as codes on a grid or as it is, in float. Every step writes one.
All arithmetic that a step stands for is given in real units, r = scale * (q - zero_point), and rounded once, when it
is written; how an engine reaches that, and how it stores the codes, is its own affair.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch.utils import _pytree as pytree

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph.operations import Activation, Average, Clamp, Convolution, Linear, Operation


@final
@dataclass(frozen=True, eq=False)
class Value:
    """Something that a step writes.

    Attributes:
        name: unique among the values of a network; that of the graph's tensor, with a mark behind it where the tensor
            is there both as codes and in float.
        grid: codes on this grid; None: float, or no tensor.
    """

    name: str
    grid: QParams | None


@dataclass(frozen=True, eq=False)
class Step(ABC):
    """What writes `out`."""

    out: Value

    @property
    @abstractmethod
    def inputs(self) -> tuple[Value, ...]:
        """The values it reads."""


@dataclass(frozen=True, eq=False)
class _OneInput(Step, ABC):
    x: Value

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (self.x,)


@final
@dataclass(frozen=True, eq=False)
class Quantize(_OneInput):
    """Float to codes."""


@final
@dataclass(frozen=True, eq=False)
class Dequantize(_OneInput):
    """Codes to float, exactly."""


@final
@dataclass(frozen=True, eq=False)
class Lookup(_OneInput):
    """A function of one code: its result depends on nothing but the code, so a table of all codes says everything.

    Attributes:
        operation: the function; None changes the grid alone.
        constants: names of what the function reads besides.
        limits: of the clamp, in real units, if the function is one; (-inf, inf) for a change of grid, None otherwise.
    """

    operation: Activation | Clamp | None
    constants: tuple[str, ...]
    limits: tuple[float, float] | None


@final
@dataclass(frozen=True, eq=False)
class PooledAverage(_OneInput):
    """Average pooling or mean of codes. The sum of the codes is a whole number; it is divided and rounded once."""

    operation: Average


@final
@dataclass(frozen=True, eq=False)
class Padded(_OneInput):
    """Padding with 0.0, that is with the zero-point.

    Attributes:
        padding: as torch.nn.functional.pad takes it.
    """

    padding: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Sum(Step):
    """x + y, cut off at `limits`: (lowest, highest) in real units."""

    x: Value
    y: Value
    limits: tuple[float, float]

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (self.x, self.y)


@final
@dataclass(frozen=True, eq=False)
class Layer(Step):
    """A convolution or linear layer on codes: clamp(layer(x) + residual, limits), in codes or, unrounded, in float.

    Attributes:
        operation: the layer.
        weight, bias: names of its constants; bias None where it has none.
        residual: codes that are added to the accumulator.
        limits: (lowest, highest) in real units; infinite where nothing is cut off.
        shape: of the layer's output for one image, axis 0 being 1.
    """

    operation: Convolution | Linear
    weight: str
    bias: str | None
    x: Value
    residual: Value | None
    limits: tuple[float, float]
    shape: tuple[int, ...]

    @property
    def inputs(self) -> tuple[Value, ...]:
        return (self.x,) if self.residual is None else (self.x, self.residual)


@dataclass(frozen=True, eq=False)
class _OfOperation(Step, ABC):
    """An operation of the float network.

    Attributes:
        operation: what is computed.
        reads: its inputs, constants among them.
    """

    operation: Operation
    reads: tuple[Value, ...]

    @property
    def inputs(self) -> tuple[Value, ...]:
        return self.reads


@final
@dataclass(frozen=True, eq=False)
class Moved(_OfOperation):
    """An operation on codes of one grid, which it selects, moves or compares, and never changes.

    Attributes:
        shape: of the first input for one image.
    """

    shape: tuple[int, ...]


@final
@dataclass(frozen=True, eq=False)
class Compute(_OfOperation):
    """An operation as the float network has it, on float values."""


@final
@dataclass(frozen=True, eq=False)
class Lowered:
    """A network as steps.

    Attributes:
        steps: in order; the first value is that of the network's input.
        given: what the network is given.
        outputs: what it returns, in float, and in which structure.
        quantized: the value of each activation quantizer that has a grid, by the quantizer's name.
        float_tensors: names of tensors inside the network that are computed in float. The logits, and what is done
            to them alone, do not count.
    """

    steps: tuple[Step, ...]
    given: Value
    outputs: tuple[Value, ...]
    structure: pytree.TreeSpec
    quantized: Mapping[str, Value]
    float_tensors: tuple[str, ...]


def same_grid(a: QParams | None, b: QParams | None) -> bool:
    """Whether a code stands for the same real value on both."""
    if a is None or b is None or a.spec != b.spec:
        return False
    return torch.equal(a.scale, b.scale) and torch.equal(a.zero_point, b.zero_point)


def bounds(grid: QParams, limits: tuple[float, float]) -> tuple[int, int]:
    """The codes between which a value cut off at `limits` (real units) lies once it is rounded.

    Rounding keeps order, so cutting off the code gives what rounding the value that was cut off gives.
    """
    lowest, highest = quantize(torch.tensor(limits), grid).tolist()
    return lowest, highest


def computes_on_uint8(step: Moved) -> bool:
    """Whether torch computes the step's operation on codes as they are."""
    codes = [torch.zeros(step.shape, dtype=torch.uint8)] * sum(value.grid is not None for value in step.reads)
    try:
        step.operation(*codes) if len(codes) == len(step.reads) else None
    except (RuntimeError, NotImplementedError):
        return False
    return True
