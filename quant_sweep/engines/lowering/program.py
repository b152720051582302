"""Running the steps of a network: which value each kernel reads, and which nobody reads any more."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, final

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.lowering.steps import (
    Compute,
    Layer,
    Lookup,
    Lowered,
    Moved,
    Padded,
    PooledAverage,
    Quantize,
    Step,
    Sum,
    Value,
)

Kernel = Callable[..., Any]  # the values of a step's inputs to that of its output
See = Callable[[str, Any], None]  # is shown a value and its name

_WRITES_NEW_MEMORY = (Quantize, Lookup, PooledAverage, Padded, Sum, Layer)


class NetworkOfCodes(nn.Module, ABC):
    """A batch of inputs, float32 (n, ...), to what the model returns, by way of codes.

    Attributes:
        float_tensors: names of the tensors inside the network that are computed in float.
        rounds: how far from its exact value the engine may have what it rounds to a code, in steps of the grid.
    """

    float_tensors: tuple[str, ...]
    rounds: float

    @abstractmethod
    def codes(self, x: Tensor) -> dict[str, Tensor]:
        """The codes of every activation that has a grid, int32, by its name; in the grid's own numbers."""


@final
class Program:
    """Steps and their kernels.

    Args:
        steps: in order.
        wanted: the values that are to be returned.
        constants: by name.
        kernel_of: makes the kernel of a step; told whether the second input of a sum, or the residual of a layer, may
            be written over.
    """

    def __init__(
        self,
        steps: Sequence[Step],
        wanted: Sequence[Value],
        constants: Mapping[str, Tensor],
        kernel_of: Callable[[Step, bool], Kernel],
    ) -> None:
        self._wanted = tuple(value.name for value in wanted)
        read = {value.name for step in steps for value in step.inputs}
        self._constants = {name: tensor for name, tensor in constants.items() if name in {*read, *self._wanted}}
        kept = {*self._wanted, *self._constants}
        fresh = _fresh_values(steps) - kept
        self._calls: list[tuple[str, tuple[str, ...], Kernel, tuple[str, ...]]] = []
        for step, dead in zip(steps, _last_reads(steps, kept), strict=True):
            names = tuple(value.name for value in step.inputs)
            overwrite = len(names) == 2 and names[1] in dead and names[1] in fresh and names[0] != names[1]
            self._calls.append((step.out.name, names, kernel_of(step, overwrite), dead))

    def run(self, given: str, value: Any, see: See = lambda _name, _value: None) -> list[Any]:
        """The values that are wanted.

        Args:
            given: name of the value that the steps begin with.
            value: the value itself.
            see: is shown each value as it is written.
        """
        values: dict[str, Any] = {given: value, **self._constants}
        for name, reads, kernel, dead in self._calls:
            values[name] = kernel(*[values[read] for read in reads])
            see(name, values[name])
            for read in dead:
                del values[read]
        return [values[name] for name in self._wanted]


def returned(lowered: Lowered, outputs: Sequence[Any]) -> Any:
    """The outputs of a network in the structure in which its model returns them."""
    return pytree.tree_unflatten(list(outputs), lowered.structure)


def codes_by_quantizer(
    quantized: Mapping[str, Value], run: Callable[[See], object], decode: Callable[[Tensor, QParams], Tensor]
) -> dict[str, Tensor]:
    """What `NetworkOfCodes.codes` returns.

    Args:
        quantized: the value of each quantizer.
        run: runs the network and shows each value to what it is given.
        decode: stored codes of a grid to int32, in the grid's own numbers.
    """
    named: dict[str, list[str]] = {}
    for quantizer, value in quantized.items():
        named.setdefault(value.name, []).append(quantizer)
    found: dict[str, Tensor] = {}

    def keep(name: str, stored: Any) -> None:
        for quantizer in named.get(name, []):
            grid = quantized[quantizer].grid
            assert grid is not None
            found[quantizer] = decode(stored, grid)

    run(keep)
    return {quantizer: found[quantizer] for quantizer in quantized}


def _last_reads(steps: Sequence[Step], kept: Collection[str]) -> list[tuple[str, ...]]:
    """By step, the values that nobody reads after it."""
    last = {value.name: i for i, step in enumerate(steps) for value in (step.out, *step.inputs)}
    return [
        tuple(dict.fromkeys(v.name for v in (*step.inputs, step.out) if last[v.name] == i and v.name not in kept))
        for i, step in enumerate(steps)
    ]


def _fresh_values(steps: Sequence[Step]) -> set[str]:
    """Values with memory of their own that no other value shares."""
    shared = {value.name for step in steps if isinstance(step, Moved | Compute) for value in step.inputs}
    return {step.out.name for step in steps if isinstance(step, _WRITES_NEW_MEMORY)} - shared
