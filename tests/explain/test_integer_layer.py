"""Accumulators: exact, and never outside what is called the worst case."""

import pytest
import torch
from explained import odd, subject
from hypothesis import given
from hypothesis import strategies as st
from small_networks import tiny
from torch.nn import functional as F

from quant_sweep.explain.dataflow import find_layer
from quant_sweep.explain.integer_layer import IntegerLayer, bits_needed

INT64 = st.integers(-(2**62), 2**62)


def layer(name: str, bits: int = 8) -> IntegerLayer:
    made = subject(tiny() if name.startswith("conv") else odd(), bits=bits)
    return IntegerLayer.of(find_layer(made.graph, made.qparams, name))


@given(a=INT64, b=INT64)
def test_bits_are_the_fewest_that_hold_both(a: int, b: int) -> None:
    bits = bits_needed(a, b)
    assert all(-(2 ** (bits - 1)) <= value < 2 ** (bits - 1) for value in (a, b))
    assert bits == 1 or not all(-(2 ** (bits - 2)) <= value < 2 ** (bits - 2) for value in (a, b))


def test_accumulator_is_the_integer_convolution() -> None:
    integer = layer("conv1")
    codes = torch.randint(0, 256, (2, 3, 9, 9), generator=torch.Generator().manual_seed(0))
    padded = F.pad(codes, (1, 1, 1, 1), value=integer.zero_point)
    expected = torch.zeros(2, 6, 9, 9, dtype=torch.int64)
    for y in range(9):
        for x in range(9):
            window = padded[:, None, :, y : y + 3, x : x + 3]
            expected[:, :, y, x] = (window * integer.weight).sum(dim=(2, 3, 4))
    accumulator = integer.accumulate(codes)
    assert torch.equal(integer.products(accumulator), expected)
    corrected = expected - (integer.zero_point * integer.weight_sums - integer.bias)[:, None, None]
    assert torch.equal(accumulator, corrected)


@pytest.mark.parametrize("name", ["conv1", "conv2", "a", "b", "d"])
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([1.0, 4.0]))
def test_nothing_exceeds_the_worst_case(name: str, seed: int, spread: float) -> None:
    integer = layer(name)
    generator = torch.Generator().manual_seed(seed)
    shape = {"conv1": (1, 3, 8, 8), "conv2": (1, 6, 8, 8), "a": (1, 3, 8, 8), "b": (1, 6, 8, 8), "d": (1, 4, 32)}[name]
    codes = (torch.randn(shape, generator=generator) * 128 * spread + 128).clamp(0, 255).round().to(torch.int64)
    accumulator = integer.accumulate(codes)
    ends = zip(integer.worst_case(), (integer.products(accumulator), accumulator), strict=True)
    for (lowest, highest), seen in ends:
        assert lowest <= int(seen.min())
        assert int(seen.max()) <= highest


def test_worst_case_is_reached() -> None:
    integer = layer("conv1")
    positive = (integer.weight > 0).to(torch.int64) * 255  # (out, 3, 3, 3): the input that drives each channel highest
    reached = [int(integer.accumulate(codes[None])[0, channel, 1, 1]) for channel, codes in enumerate(positive)]
    assert max(reached) == integer.worst_case()[1][1]


def test_a_sum_that_overflows_saturates() -> None:
    integer = layer("conv1", bits=16)
    high = torch.full((1, 6, 1, 1), 2**40)
    assert torch.equal(integer.in_steps_of_output(high), integer.in_steps_of_output(torch.full_like(high, 2**31 - 1)))
