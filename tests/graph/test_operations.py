"""Records called by themselves, against values worked out by hand; what engines make of them is tested with engines."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from quant_sweep.graph.operations import (
    BatchNorm,
    Call,
    ChannelAffine,
    Clamp,
    Convolution,
    Images,
    Mean,
    SameDevice,
    Slot,
)


@pytest.mark.parametrize("lo", [-math.inf, -1.5, 0.0, 1.0])
@pytest.mark.parametrize("hi", [1.25, 6.0, math.inf])
def test_a_clamp_cuts_off_on_the_sides_that_it_has(lo: float, hi: float) -> None:
    values = [-1e30, -2.0, -1.5, -0.5, 0.0, 0.5, 1.0, 1.25, 5.0, 7.0, 1e30]
    x = torch.tensor(values)
    given = x.clone()
    assert Clamp(lo, hi)(x).tolist() == torch.tensor([min(max(value, lo), hi) for value in values]).tolist()
    assert torch.equal(x, given), "nothing is overwritten"


@pytest.mark.parametrize("axes", [(1,), (2, 3), (1, 3)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_a_mean_keeps_its_axes_or_not(axes: tuple[int, ...], keepdim: bool) -> None:
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    found, expected = Mean(axes, keepdim)(x).numpy(), x.double().numpy().mean(axes, keepdims=keepdim)
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("axis", [1, 2, 3])
def test_channels_that_any_axis_counts_are_scaled_and_shifted(axis: int) -> None:
    x = torch.arange(24.0).reshape(1, 2, 3, 4)
    count = x.shape[axis]
    scale, shift = torch.arange(1.0, count + 1), torch.arange(count) / 8
    found = ChannelAffine(axis)(x, scale, shift)
    for channel in range(count):
        expected = x.select(axis, channel) * (channel + 1) + channel / 8
        assert torch.equal(found.select(axis, channel), expected)


def test_a_batch_norm_is_its_formula() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, 4, generator=generator)
    gamma, beta, mean = (torch.randn(3, generator=generator) for _ in range(3))
    variance = torch.rand(3, generator=generator) + 0.1
    g, b, m, v = (values.double()[:, None] for values in (gamma, beta, mean, variance))
    expected = g * (x.double() - m) / (v + 0.25).sqrt() + b
    torch.testing.assert_close(BatchNorm(0.25, 0.9)(x, gamma, beta, mean, variance).double(), expected)


def test_zeros_before_and_behind_each_axis() -> None:
    """A kernel of one value 1 at its first place leaves the padded image itself."""
    x, weight = torch.arange(1.0, 7.0).reshape(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)
    weight[..., 0] = 1
    found = Convolution((1, 1), ((1, 0), (2, 1)), (1, 1))(x, weight)
    assert found.tolist() == [[[[0, 0, 0, 0, 0], [0, 0, 1, 2, 3], [0, 0, 4, 5, 6]]]]


def joined(parts: list[Tensor], count: int, *, rows: int, device: torch.device) -> Tensor:
    assert isinstance(parts, list)
    return torch.cat([*parts, torch.full((rows, 2), float(count), device=device)])


def test_a_call_fills_in_inputs_numbers_of_images_and_the_device() -> None:
    """As an argument, inside a tuple and by keyword."""
    a, b = torch.zeros(3, 2), torch.ones(5, 2)
    call = Call(joined, ((Slot(1), Slot(0)), Images(2, 1)), (("rows", Images(1, 0)), ("device", SameDevice())))
    assert torch.equal(call(a, b), torch.cat([b, a, torch.full((3, 2), 10.0)]))
    on_meta = call(a.to("meta"), b.to("meta"))
    assert on_meta.device.type == "meta"
    assert on_meta.shape == (11, 2)
