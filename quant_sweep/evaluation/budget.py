"""What a network may cost, as it is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import final

from quant_sweep.arithmetic.widths import MAX_BITS, MIN_BITS
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph
from quant_sweep.quantization.allocation import ACTIVATION_BITS, BIT_OPERATIONS, WEIGHT_BITS, NetworkSize

LIKE = "like_uniform_"
_MEGABYTE_BITS, _FLOAT_BITS = 8e6, 32


@final
@dataclass(frozen=True)
class Budget:
    """Limits that hold together; at least one is given.

    Attributes:
        megabytes: of the stored network, biases in float included, 10**6 bytes.
        bitops: bit operations of an image, 10**9: products times the bits of both factors.
        mean_bits: of the weights, and of the activations of an image, each number counted.
        like_uniform: size and bit operations of the network with so many bits everywhere.
        max_drop: percent of images whose class may change, at the least size and bit operations; stands alone.

    Raises:
        InputError: none is given, or a value is not allowed.
    """

    megabytes: float | None = None
    bitops: float | None = None
    mean_bits: float | None = None
    like_uniform: int | None = None
    max_drop: float | None = None

    def __post_init__(self) -> None:
        given = {field.name: value for field in fields(self) if (value := getattr(self, field.name)) is not None}
        if not given:
            raise InputError(
                f"budget: give budget.megabytes, budget.bitops, budget.mean_bits, budget.max_drop or budget={LIKE}4"
            )
        for name, value in given.items():
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
                raise InputError(f"budget.{name}={value!r}: allowed are numbers above 0")
        if self.like_uniform is not None and not MIN_BITS <= self.like_uniform <= MAX_BITS:
            raise InputError(f"budget={LIKE}{self.like_uniform}: allowed are {LIKE}{MIN_BITS} to {LIKE}{MAX_BITS}")
        if self.max_drop is not None and len(given) > 1:
            raise InputError("budget.max_drop: it asks for the least cost; leave the other limits out")

    def __str__(self) -> str:
        if self.like_uniform is not None:
            return f"budget={LIKE}{self.like_uniform}"
        given = {field.name: getattr(self, field.name) for field in fields(self)}
        return " ".join(f"budget.{name}={value:g}" for name, value in given.items() if value is not None)

    def caps(self, size: NetworkSize, graph: QuantGraph) -> dict[str, float]:
        """The most of each cost, by the names of `NetworkSize.costs`.

        Raises:
            InputError: `megabytes` is less than what stays in float.
        """
        caps = list[dict[str, float]]()
        if self.like_uniform is not None:
            costs = size.costs(dict.fromkeys((*size.weights, *size.activations), self.like_uniform))
            caps.append({name: costs[name] for name in (WEIGHT_BITS, BIT_OPERATIONS)})
        if self.megabytes is not None:
            others = sum(t.numel() for t in graph.graph.constants.values()) - sum(size.weights.values())
            left = self.megabytes * _MEGABYTE_BITS - others * _FLOAT_BITS
            if left <= 0:
                least = others * _FLOAT_BITS / _MEGABYTE_BITS
                raise InputError(f"budget.megabytes={self.megabytes:g}: biases and the like alone take {least:.3g}")
            caps.append({WEIGHT_BITS: left})
        if self.bitops is not None:
            caps.append({BIT_OPERATIONS: self.bitops * 1e9})
        if self.mean_bits is not None:
            numbers = {WEIGHT_BITS: size.weights, ACTIVATION_BITS: size.activations}
            caps.append({name: self.mean_bits * sum(counts.values()) for name, counts in numbers.items()})
        return {name: min(cap[name] for cap in caps if name in cap) for cap in caps for name in cap}


def parse_budget(given: object) -> Budget:
    """A budget as it is typed: `like_uniform_4`, or a mapping of limits.

    Raises:
        InputError: it is neither.
    """
    if isinstance(given, str) and given.startswith(LIKE) and given.removeprefix(LIKE).isdecimal():
        return Budget(like_uniform=int(given.removeprefix(LIKE)))
    names = [field.name for field in fields(Budget) if field.name != "like_uniform"]
    if isinstance(given, Mapping):
        unknown = [str(name) for name in given if name not in names]
        if not unknown:
            return Budget(**{str(name): value for name, value in given.items()})
        raise InputError(f"budget.{unknown[0]}: no such limit; allowed are {', '.join(names)}")
    limits = ", ".join(f"budget.{name}" for name in names)
    raise InputError(f"budget={given}: allowed are {LIKE}{MIN_BITS} to {LIKE}{MAX_BITS}, and {limits}")
