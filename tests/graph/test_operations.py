"""The records of the vocabulary, called with tensors: torch's own functions are what they are held against."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import held_against_the_model, random_images
from torch import Tensor, nn

from quant_sweep.graph import Fusion
from quant_sweep.graph.operations import (
    AveragePool,
    BatchNorm,
    Call,
    ChannelAffine,
    Clamp,
    Convolution,
    Images,
    MaxPool,
    Mean,
    Operation,
    SameDevice,
    Slot,
)

# -- windows of one, two and three axes, with all that can be told them --

AXES = pytest.mark.parametrize("axes", [1, 2, 3])


def of_axes(values: tuple[int, ...], axes: int) -> tuple[int, ...]:
    return values[:axes]


def images_of_axes(axes: int) -> Tensor:
    return random_images(2, 3, *(11, 10, 9)[:axes])


@AXES
@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("count_padding", [False, True])
@pytest.mark.parametrize("divisor", [None, 5])
def test_average_pooling(axes: int, ceil: bool, count_padding: bool, divisor: int | None) -> None:
    kernel, stride, padding = (of_axes(sizes, axes) for sizes in ((3, 2, 4), (2, 3, 2), (1, 0, 2)))
    pool: Callable[..., Tensor] = (F.avg_pool1d, F.avg_pool2d, F.avg_pool3d)[axes - 1]
    more = () if axes == 1 else (divisor,)  # which avg_pool1d has not
    x = images_of_axes(axes)
    wanted = pool(x, kernel, stride, padding, ceil, count_padding, *more)
    assert torch.equal(AveragePool(kernel, stride, padding, ceil, count_padding, divisor)(x), wanted)


@AXES
@pytest.mark.parametrize("ceil", [False, True])
def test_max_pooling(axes: int, ceil: bool) -> None:
    kernel, stride, padding, dilation = (of_axes(sizes, axes) for sizes in ((3, 2, 4), (2, 3, 2), (1, 0, 2), (2, 1, 1)))
    pool: Callable[..., Tensor] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[axes - 1]
    x = images_of_axes(axes)
    wanted = pool(x, kernel, stride, padding, dilation, ceil)
    assert torch.equal(MaxPool(kernel, stride, padding, dilation, ceil)(x), wanted)


@AXES
@pytest.mark.parametrize("extra", [(0, 0, 0), (1, 0, 2), (1, 1, 1)], ids=["symmetric", "mixed", "more behind"])
def test_convolution_with_its_own_padding_on_every_side(axes: int, extra: tuple[int, ...]) -> None:
    """By hand: zeros are laid around the images first."""
    padding = tuple((i, i + more) for i, more in zip(range(axes), extra, strict=False))
    stride, dilation = of_axes((1, 2, 1), axes), of_axes((2, 1, 1), axes)
    x, weight = images_of_axes(axes)[:, :2], random_images(4, 1, *(3, 2, 3)[:axes], seed=1)
    convolve: Callable[..., Tensor] = (F.conv1d, F.conv2d, F.conv3d)[axes - 1]
    around = torch.zeros(*x.shape[:2], *(size + sum(p) for size, p in zip(x.shape[2:], padding, strict=True)))
    inside = [slice(before, before + size) for size, (before, _) in zip(x.shape[2:], padding, strict=True)]
    around[(slice(None), slice(None), *inside)] = x
    wanted = convolve(around, weight, torch.arange(4.0), stride, 0, dilation, 2)
    found = Convolution(stride, padding, dilation, groups=2)(x, weight, torch.arange(4.0))
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("axes", [(1,), (2, 3), (1, 3)])
@pytest.mark.parametrize("keepdim", [False, True])
def test_mean(axes: tuple[int, ...], keepdim: bool) -> None:
    x = random_images()
    wanted = x.double().numpy().mean(axes, keepdims=keepdim)
    torch.testing.assert_close(Mean(axes, keepdim)(x), torch.from_numpy(wanted).float())


# -- activations that cut off --


@pytest.mark.parametrize("lo", [-math.inf, -0.5, 0.0, 1.0])
@pytest.mark.parametrize("hi", [math.inf, 6.0, 1.5])
def test_what_is_cut_off(lo: float, hi: float) -> None:
    x = torch.tensor([-math.inf, -7.0, -0.25, 0.0, 0.5, 1.25, 4.0, 7.0, math.inf])
    assert Clamp(lo, hi)(x).tolist() == [min(max(value, lo), hi) for value in x.tolist()]
    assert Clamp(lo, hi)(torch.tensor(math.nan)).isnan()


def test_relu_passes_no_gradient_on_at_0() -> None:
    """As torch has it: many values of a quantized network are exactly 0."""
    x = torch.tensor([-1.0, 0.0, 2.0], requires_grad=True)
    Clamp(0.0, math.inf)(x).sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [0.0, 0.0, 1.0]


@pytest.mark.parametrize("limits", [(-math.inf, math.inf), (-math.inf, 0.5), (-0.5, math.inf), (0.0, 0.5)])
@torch.no_grad()
def test_limits_that_a_model_does_not_use(limits: tuple[float, float]) -> None:
    model, x = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Hardtanh(*limits)), random_images()
    graph = held_against_the_model(model, x)[Fusion.none].graph
    assert graph.nodes[1].operation == Clamp(*limits)


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


# -- calls as they are --


@pytest.mark.parametrize(
    ("call", "wanted"),
    [
        (Call(torch.sub, (Slot(1), Slot(0))), lambda x, y: y - x),
        (Call(torch.sub, (Slot(0), Slot(1)), (("alpha", 2),)), lambda x, y: x - 2 * y),
        (Call(torch.where, (), (("condition", Slot(2)), ("input", Slot(1)), ("other", 0.5))), lambda _, y: y),
        (Call(torch.cat, ((Slot(1), Slot(0)),), (("dim", 1),)), lambda x, y: torch.cat([y, x], 1)),
        (Call(torch.reshape, (Slot(0), (Images(2, 0), 3))), lambda x, _: x.reshape(10, 3)),
        (Call(torch.reshape, (Slot(0),), (("shape", (Images(2, 1), -1)),)), lambda x, _: x.reshape(10, 3)),
        (Call(torch.stack, (((Slot(0)), Slot(1)), Images(0, 0))), lambda x, y: torch.stack([x, y])),
        (Call(torch.full, ((Images(3, 0), 2), 0.5)), lambda *_: torch.full((15, 2), 0.5)),
    ],
)
def test_a_call_is_filled_in(call: Call, wanted: Callable[..., Any]) -> None:
    x, y = random_images(5, 6), random_images(5, 6, seed=1)
    assert torch.equal(call(x, y, torch.tensor(True)), wanted(x, y))


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_a_call_makes_tensors_where_its_last_input_lies(device: str) -> None:
    call = Call(torch.zeros, ((Images(1, 1), 2),), (("device", SameDevice()),))
    made = call(torch.zeros(4), torch.zeros(3, device=device))
    assert (made.device.type, tuple(made.shape)) == (device, (3, 2))


def test_records_are_told_apart_by_what_they_say() -> None:
    records: list[Operation] = [Clamp(0.0, 6.0), Clamp(0.0, math.inf), Mean((2,), True), Mean((2,), False)]
    assert len(set(records)) == len(records)
