"""Rows of every kind of layer: each, times the weight, is the output at its place."""

import pytest
import torch
from exact_layers import input_shape, layers, operation_of, weight_of
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.recovery.rows import rows_of_weight, sampled_rows, scales_of_rows, weight_of_rows


@given(layers(), st.sampled_from([7, 10_000]), st.integers(0, 100))
def test_rows_times_weight_are_the_outputs(module: nn.Module, count: int, seed: int) -> None:
    torch.manual_seed(seed)
    x = torch.randn(input_shape(module, 6))
    operation, weight = operation_of(module), weight_of(module)
    try:
        with torch.no_grad():
            y = operation(x, weight)
    except RuntimeError:  # the kernel is larger than the input
        assume(False)
    rows = rows_of_weight(operation, weight)
    windows, outputs = sampled_rows(operation, weight, x, y, count, torch.Generator().manual_seed(seed))
    torch.testing.assert_close(windows @ rows.transpose(1, 2), outputs, rtol=1e-4, atol=1e-5)
    assert torch.equal(weight_of_rows(operation, rows, weight.shape), weight)
    assert windows.shape[1] == min(count, y.numel() // len(weight))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("count", [2 * 3 * 3, 10_000])
def test_all_outputs_are_there_where_they_are_few(layout: torch.memory_format, count: int) -> None:
    module = nn.Conv2d(2, 3, 3, stride=2, padding=1)
    x = torch.randn(2, 2, 5, 5).contiguous(memory_format=layout)
    operation, weight = operation_of(module), weight_of(module)
    y = operation(x, weight)
    _, values = sampled_rows(operation, weight, x, y, count, torch.Generator())
    assert torch.equal(values[0], y.permute(0, 2, 3, 1).reshape(-1, 3))


def test_a_linear_layer_of_sequences() -> None:
    module, x = nn.Linear(4, 3), torch.randn(2, 5, 4)
    y = module(x)
    drawn = torch.randint(10, (6,), generator=torch.Generator().manual_seed(7))
    windows, _ = sampled_rows(operation_of(module), module.weight, x, y, 6, torch.Generator().manual_seed(7))
    assert torch.equal(windows[0], x.reshape(-1, 4)[drawn])
    for count in (10, 10_000):
        windows, values = sampled_rows(operation_of(module), module.weight, x, y, count, torch.Generator())
        assert torch.equal(windows[0], x.reshape(-1, 4))
        assert torch.equal(values[0], y.reshape(-1, 3))


@pytest.mark.parametrize(("axis", "channels"), [(0, 1), (0, 6), (None, 1), (None, 6)])
def test_scales_are_shaped_like_those_of_the_grid(axis: int | None, channels: int) -> None:
    """Groups behind each other; the one scale of a tensor, which all channels have here; none becomes 0 as float32."""
    spec = QuantSpec(bits=4, signed=True, symmetric=True, narrow_range=True, channel_axis=axis)
    shape = () if axis is None else (channels,)
    grid = QParams(torch.ones(shape), torch.zeros(shape, dtype=torch.int32), spec)
    scales = (
        torch.arange(1.0, channels + 1, dtype=torch.float64) if axis == 0 else torch.full((channels,), 3.0).double()
    )
    found = scales_of_rows(scales.reshape(max(1, channels // 3), -1), grid)
    assert found.dtype == torch.float32
    assert torch.equal(found, scales.float() if axis == 0 else torch.tensor(3.0))
    smallest = scales_of_rows(1e-60 * scales.reshape(1, -1), grid)
    assert smallest.shape == shape
    assert bool((smallest > 0).all())
