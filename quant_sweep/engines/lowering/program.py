"""Running the steps of a network: which value each kernel reads, and which nobody reads any more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering.node import Kernel
from quant_sweep.engines.lowering.steps import Average, Compute, Layer, Lookup, Move, Pad, Quantize, Step, Sum, Value

See = Callable[[str, Any], None]  # is shown a value and its name

_WRITES_NEW_MEMORY = (Quantize, Lookup, Average, Pad, Sum, Layer)


class NetworkOfCodes(nn.Module, ABC):
    """Normalised images, float32 (n, channels, height, width), to logits, float32 (n, classes), by way of codes.

    Attributes:
        float_tensors: names of the tensors inside the network that are computed in float.
    """

    float_tensors: tuple[str, ...]

    @abstractmethod
    def codes(self, images: Tensor) -> dict[str, Tensor]:
        """The codes of every activation that has a grid, int32, by the name of its point; in the grid's own numbers."""


@final
class Program:
    """Steps and their kernels.

    Args:
        steps: in order.
        kernel_of: makes the kernel of a step; told whether the second input of a sum, or the residual of a layer, may
            be written over.
    """

    def __init__(self, steps: Sequence[Step], kernel_of: Callable[[Step, bool], Kernel]) -> None:
        fresh = _fresh_values(steps)
        self._calls: list[tuple[str, tuple[str, ...], Kernel, tuple[str, ...]]] = []
        for step, dead in zip(steps, _last_reads(steps), strict=True):
            names = tuple(value.name for value in step.inputs)
            overwrite = len(names) == 2 and names[1] in dead and names[1] in fresh and names[0] != names[1]
            self._calls.append((step.out.name, names, kernel_of(step, overwrite), dead))

    def run(self, given: str, value: Any, see: See = lambda _name, _value: None) -> Any:
        """What the last step writes.

        Args:
            given: name of the value that the steps begin with.
            value: the value itself.
            see: is shown each value as it is written.
        """
        values: dict[str, Any] = {given: value}
        result: Any = None
        for name, reads, kernel, dead in self._calls:
            result = values[name] = kernel(*[values[read] for read in reads])
            see(name, result)
            for read in dead:
                del values[read]
        return result


def codes_by_point(
    points: Mapping[str, Value], run: Callable[[See], object], decode: Callable[[Tensor, QParams], Tensor]
) -> dict[str, Tensor]:
    """What `NetworkOfCodes.codes` returns.

    Args:
        points: the value of each point.
        run: runs the network and shows each value to what it is given.
        decode: stored codes of a grid to int32, in the grid's own numbers.
    """
    named: dict[str, list[str]] = {}
    for point, value in points.items():
        named.setdefault(value.name, []).append(point)
    found: dict[str, Tensor] = {}

    def keep(name: str, stored: Any) -> None:
        for point in named.get(name, []):
            grid = points[point].grid
            assert grid is not None
            found[point] = decode(stored, grid)

    run(keep)
    return {point: found[point] for point in points}


def _last_reads(steps: Sequence[Step]) -> list[tuple[str, ...]]:
    """By step, the values that nobody reads after it."""
    last = {value.name: i for i, step in enumerate(steps) for value in (step.out, *step.inputs)}
    return [
        tuple(dict.fromkeys(v.name for v in (*step.inputs, step.out) if last[v.name] == i and i < len(steps) - 1))
        for i, step in enumerate(steps)
    ]


def _fresh_values(steps: Sequence[Step]) -> set[str]:
    """Values with memory of their own that no other value shares."""
    shared = {value.name for step in steps if isinstance(step, Move | Compute) for value in step.inputs}
    return {step.out.name for step in steps if isinstance(step, _WRITES_NEW_MEMORY)} - shared
