"""The single steps of a lowered network, and which kernels may write over what they read."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import nn

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.lowering import Moved, Program, Quantize, Step, Sum, Value, same_grid, why_unsupported
from quant_sweep.graph import Fusion, capture
from quant_sweep.graph.operations import Clamp

UNLIMITED = (-math.inf, math.inf)


def grid_of(scale: float, zero_point: int = 128, bits: int = 8, signed: bool = False) -> QParams:
    return QParams(torch.tensor(scale), torch.tensor(zero_point, dtype=torch.int32), QuantSpec(bits, signed))


GRID = grid_of(0.1)
FLOAT, X, Y, Z = Value("float", None), Value("x", GRID), Value("y", GRID), Value("z", GRID)
MADE = [Quantize(X, FLOAT), Quantize(Y, FLOAT)]


def overwrites(steps: Sequence[Step], wanted: Sequence[Value]) -> list[bool]:
    """What the kernel of each step is told."""
    told: list[bool] = []

    def kernel_of(_step: Step, overwrite: bool) -> object:
        told.append(overwrite)
        return None

    Program(steps, wanted, {}, kernel_of)  # type: ignore[arg-type]
    return told


SUM = Sum(Z, X, Y, UNLIMITED)


@pytest.mark.parametrize(
    ("steps", "wanted", "expected"),
    [
        pytest.param([*MADE, SUM], [Z], True, id="nobody reads it again"),
        pytest.param([*MADE, Sum(Z, X, X, UNLIMITED)], [Z], False, id="the first operand too"),
        pytest.param([*MADE, SUM], [Y, Z], False, id="it is returned"),
        pytest.param([*MADE, SUM, Sum(Value("w", GRID), Z, Y, UNLIMITED)], [Value("w", GRID)], False, id="read later"),
        pytest.param(
            [*MADE, Moved(Value("m", GRID), Clamp(*UNLIMITED), (Y,), (1, 3)), SUM],
            [Value("m", GRID), Z],
            False,
            id="it shares its memory",
        ),
        pytest.param(
            [*MADE, Moved(Value("m", GRID), Clamp(*UNLIMITED), (Y,), (1, 3)), Sum(Z, X, Value("m", GRID), UNLIMITED)],
            [Y, Z],
            False,
            id="it is the memory of another",
        ),
    ],
)
def test_second_operand_is_written_over_only_if_no_one_else_needs_it(
    steps: list[Step], wanted: list[Value], expected: bool
) -> None:
    told = overwrites(steps, wanted)
    first_sum = next(i for i, step in enumerate(steps) if isinstance(step, Sum))
    assert told[first_sum] is expected
    assert not any(told[:first_sum])


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (grid_of(0.1), True),
        (grid_of(0.2), False),
        (grid_of(0.1, zero_point=127), False),
        (grid_of(0.1, signed=True, zero_point=127), False),
        (grid_of(0.1, bits=9), False),
        (None, False),
    ],
)
def test_grids_are_the_same_if_all_of_them_is(other: QParams | None, same: bool) -> None:
    assert same_grid(GRID, other) is same
    assert same_grid(other, GRID) is same


def test_two_values_without_a_grid_are_on_no_common_grid() -> None:
    assert not same_grid(None, None)


@pytest.mark.parametrize(("inputs", "bits", "allowed"), [(65_793, 8, True), (65_794, 8, False), (65_794, 7, True)])
def test_number_of_products_that_32_bits_hold(inputs: int, bits: int, allowed: bool) -> None:
    """255 * 128 * 65793 = 2**31 - 128."""
    graph = capture(nn.Linear(inputs, 1), torch.zeros(2, inputs), Fusion.conv_bn_relu)
    (weight,) = graph.weights
    reason = why_unsupported(graph, {"input": QuantSpec(bits), weight.name: QuantSpec(8, signed=True, symmetric=True)})
    if allowed:
        assert reason is None
    else:
        assert reason is not None
        assert weight.name in reason
        assert str(inputs) in reason


def test_unsigned_weights_are_refused() -> None:
    graph = capture(nn.Linear(3, 2), torch.zeros(2, 3), Fusion.conv_bn_relu)
    (weight,) = graph.weights
    for spec in (QuantSpec(8), QuantSpec(8, signed=True, channel_axis=1)):
        assert weight.name in (why_unsupported(graph, {"input": QuantSpec(8), weight.name: spec}) or "")
    assert why_unsupported(graph, {weight.name: QuantSpec(8, signed=True, channel_axis=0)}) is None
