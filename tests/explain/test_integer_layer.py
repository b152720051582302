"""Accumulators: exact, and never outside what is called the worst case."""

from dataclasses import replace

import pytest
import torch
from explained import NETWORKS, subject_of
from hypothesis import given
from hypothesis import strategies as st
from small_networks import images
from torch.nn import functional as F

from quant_sweep.explain.dataflow import find_layer
from quant_sweep.explain.integer_layer import IntegerLayer, bits_needed
from quant_sweep.explain.recording import record

INT64 = st.integers(-(2**62), 2**62)


def layer(name: str, bits: int = 8) -> IntegerLayer:
    kind = next(kind for kind, (_, layers) in NETWORKS.items() if name in layers)
    made = subject_of(kind, bits=bits)
    return IntegerLayer.of(made.graph, find_layer(made.graph, made.qparams, name))


@given(a=INT64, b=INT64)
def test_bits_are_the_fewest_that_hold_both(a: int, b: int) -> None:
    bits = bits_needed(a, b)
    assert all(-(2 ** (bits - 1)) <= value < 2 ** (bits - 1) for value in (a, b))
    assert bits == 1 or not all(-(2 ** (bits - 2)) <= value < 2 ** (bits - 2) for value in (a, b))


def test_accumulator_is_the_integer_convolution() -> None:
    integer = layer("conv1", bits=4)
    codes = torch.randint(0, 16, (2, 3, 9, 9), generator=torch.Generator().manual_seed(0))
    padded = F.pad(codes, (1, 1, 1, 1), value=integer.source.zero)
    expected = torch.zeros(2, 6, 9, 9, dtype=torch.int64)
    for y in range(9):
        for x in range(9):
            window = padded[:, None, :, y : y + 3, x : x + 3]
            expected[:, :, y, x] = (window * integer.weight).sum(dim=(2, 3, 4))
    stages = integer.run(codes.to(torch.int32), None)
    assert torch.equal(stages.sums, expected)
    assert integer.accumulate is not None
    assert int(integer.shifts.min()) >= 0
    powers, bias = 2 ** integer.shifts[:, None, None], integer.accumulate.bias
    corrected = (expected - (integer.source.zero * integer.weight_sums)[:, None, None]) * powers + bias
    assert torch.equal(stages.accumulator, corrected)


SHAPES = {"conv1": (3, 8, 8), "a": (3, 8, 8), "b": (6, 8, 8), "d": (4, 32), "f": (3, 8, 8), "g": (4, 5, 6), "j": (3, 9)}


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", list(SHAPES))
@given(seed=st.integers(0, 2**31), spread=st.sampled_from([1.0, 4.0]))
def test_nothing_exceeds_the_worst_case(name: str, bits: int, seed: int, spread: float) -> None:
    integer = layer(name, bits)
    generator = torch.Generator().manual_seed(seed)
    middle = 2 ** (bits - 1)
    codes = torch.randn((1, *SHAPES[name]), generator=generator) * middle * spread + middle
    stages = integer.run(codes.clamp(0, 2 * middle - 1).round().to(torch.int32), None)
    for (lowest, highest), seen in zip(integer.worst_case(), (stages.sums, stages.accumulator), strict=True):
        assert lowest <= int(seen.min())
        assert int(seen.max()) <= highest


@pytest.mark.parametrize("bits", [8, 4, 16])
def test_worst_case_is_reached(bits: int) -> None:
    """By the input that drives each channel highest."""
    integer = layer("conv1", bits)
    highest = (integer.weight > 0).to(torch.int32) * (2**bits - 1)  # (out, 3, 3, 3)
    reached = [int(integer.run(codes[None], None).accumulator[0, i, 1, 1]) for i, codes in enumerate(highest)]
    assert max(reached) == integer.worst_case()[1][1]


@pytest.mark.parametrize("name", ["conv1", "a", "b", "c", "d", "f", "g", "i", "j"])
def test_sums_of_any_width_are_those_of_the_engine(name: str) -> None:
    """The exact sums that stand in where the engine refuses a layer."""
    integer, made = layer(name), subject_of(next(kind for kind, (_, layers) in NETWORKS.items() if name in layers))
    recording = record(made, images(2), integer.dataflow)
    exact = replace(integer, kernel=None).run(*recording.codes_read())
    engine = integer.run(*recording.codes_read())
    assert torch.equal(exact.sums, engine.sums.to(torch.int64))
