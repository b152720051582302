"""The kernels of single steps at every code, against float64, and which of oneDNN's operators they call.

Scales are powers of two: float32 is exact, so that kernels and formula agree at every tie, too.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from exact_layers import (
    CONVOLUTIONS,
    TRANSPOSED,
    UNLIMITED,
    constants_of,
    exact,
    grid,
    layer_step,
    random_codes,
    real_of,
)
from kernel_calls import Calls
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.lowering import Kernel, Lookup, Moved, Step, Sum, Value
from quant_sweep.engines.onednn import Placed, kernel_of
from quant_sweep.graph.operations import Activation, Call, Clamp, MaxPool, Slot

WEIGHT = QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), QuantSpec(2, signed=True))  # of weights 1.0
NARROW = QParams(torch.tensor(0.25), torch.tensor(-20, dtype=torch.int32), QuantSpec(8, signed=True, narrow_range=True))
OUT_GRIDS = {
    "middle": grid(8, False, 0.4, 0.25),
    "lowest": grid(8, True, 0.0, 0.25),
    "next to highest": grid(8, False, 254 / 255, 0.25),  # at 255, an odd one, ties go the other way
    "255 codes": NARROW,
    "7 bits": grid(7, True, 0.6, 0.25),
}
SHAPES = {0: (256, 1), 1: (1, 1, 256), 2: (1, 1, 16, 16), 3: (1, 1, 4, 8, 8)}

pytestmark = pytest.mark.usefixtures("exact_int8")


def stored(codes: Tensor, qparams: QParams) -> Tensor:
    return (codes + Placed.of(qparams).offset).to(torch.uint8)


def all_codes(qparams: QParams) -> Tensor:
    return torch.arange(qparams.spec.qmin, qparams.spec.qmax + 1, dtype=torch.int32)


def limits_of(qparams: QParams) -> list[tuple[float, float]]:
    """No limits, and ends, neighbours of ends, and 0.0 as limits."""
    spec, scale, zero = qparams.spec, float(qparams.scale), int(qparams.zero_point)
    lowest = [-math.inf, 0.0, *((code - zero) * scale for code in (spec.qmin + 1, spec.qmin + 9))]
    highest = [math.inf, 0.0, *((code - zero) * scale for code in (spec.qmax - 1, spec.qmax - 9))]
    return [(low, high) for low in lowest for high in highest if low <= high]


def assert_codes(found: Tensor, real: Tensor, limits: tuple[float, float], out: QParams) -> None:
    assert found.dtype == torch.uint8
    assert torch.equal(found.int() - Placed.of(out).offset, quantize(real.float().clamp(*limits), out)), limits


def kernel(step: Step, overwrite: bool = False) -> Kernel:
    return kernel_of(step, {}, {}, overwrite)


# -- layers --


@pytest.mark.parametrize("out", OUT_GRIDS.values(), ids=OUT_GRIDS)
@pytest.mark.parametrize("residual", ["none", "whole", "broadcast"])
@pytest.mark.parametrize("dims", [0, 1, 2, 3])
def test_a_layer_and_its_residual_are_cut_off_at_any_code(dims: int, residual: str, out: QParams) -> None:
    layer = CONVOLUTIONS[dims](1, 1, 1, bias=False) if dims else nn.Linear(1, 1, bias=False)
    nn.init.ones_(layer.weight)
    x_grid, at = grid(8, True, 0.5, 0.25), None if residual == "none" else grid(8, False, 0.4, 0.125)
    x = all_codes(x_grid).reshape(SHAPES[dims])
    operands, real = [stored(x, x_grid)], real_of(x, x_grid)
    if at is not None:
        of_all = (all_codes(at) * 37 % 256).reshape(x.shape)
        added = of_all if residual == "whole" else of_all.flatten()[5:6].reshape([1] * x.dim())
        operands.append(stored(added, at))
        real = real + real_of(added, at)
    for limits in limits_of(out):
        step = layer_step(layer, x_grid, out, tuple(x.shape), at, limits)
        run = kernel_of(step, constants_of(layer), {"layer.weight": WEIGHT}, overwrite=False)
        assert_codes(run(*operands), real, limits, out)


GEOMETRIES = [  # kernel, padding, dilation, stride; and whether no window lies in the padding alone
    (1, 0, 1, 1, True),
    (1, 1, 1, 1, False),
    (2, 1, 1, 1, True),
    (2, 2, 1, 1, False),
    (3, 1, 1, 2, True),
    (3, 2, 1, 1, True),
    (3, 3, 1, 1, False),
    (2, 2, 2, 1, True),
    (2, 3, 2, 1, False),
]


@pytest.mark.parametrize(("size", "padding", "dilation", "stride", "within"), GEOMETRIES)
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_padding_is_left_to_the_kernel_where_each_window_meets_a_pixel(
    dims: int, size: int, padding: int, dilation: int, stride: int, within: bool
) -> None:
    torch.manual_seed(0)
    layer = CONVOLUTIONS[dims](2, 3, size, stride, padding, dilation)
    nn.init.ones_(layer.weight)
    x_grid = grid(8, False, 0.7, 0.5)
    x = random_codes((2, 2, *(5, 4, 6)[:dims]), x_grid)
    real = exact(layer, WEIGHT, x, x_grid)
    step = layer_step(layer, x_grid, None, tuple(real.shape))
    run = kernel_of(step, constants_of(layer), {"layer.weight": WEIGHT}, overwrite=False)
    with Calls() as calls:
        sums = run(stored(x, x_grid))
    torch.testing.assert_close(sums.double(), real, rtol=1e-6, atol=1e-5)
    assert calls.counts["aten.constant_pad_nd.default"] == (not within)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dims", [1, 2, 3])
def test_between_the_pixels_of_a_transposed_convolution_lies_the_real_zero(dims: int, stride: int) -> None:
    torch.manual_seed(0)
    layer = TRANSPOSED[dims](2, 3, 3, stride, 1)
    nn.init.ones_(layer.weight)
    x_grid = grid(8, False, 0.7, 0.5)
    x = random_codes((2, 2, *(5, 4, 6)[:dims]), x_grid)
    real = exact(layer, WEIGHT, x, x_grid)
    step = layer_step(layer, x_grid, None, tuple(real.shape))
    sums = kernel_of(step, constants_of(layer), {"layer.weight": WEIGHT}, overwrite=False)(stored(x, x_grid))
    torch.testing.assert_close(sums.double(), real, rtol=1e-6, atol=1e-5)


def test_weights_are_packed_for_the_size_of_the_images() -> None:
    """Those packed for another, or for none, are reordered in every call, which takes longer than the arithmetic."""
    layer, x_grid = nn.Conv2d(2, 3, 3), grid(8, False, 0.5, 0.5)
    step = layer_step(layer, x_grid, None, (1, 3, 4, 5))
    run = kernel_of(step, constants_of(layer), {"layer.weight": WEIGHT}, overwrite=False)
    with Calls() as calls:
        for height, width in ((6, 7), (6, 7), (6, 9), (8, 9), (8, 9)):
            run(stored(random_codes((1, 2, height, width), x_grid), x_grid))
    assert calls.packed_for == [[1, 2, 6, 7], [1, 2, 6, 9], [1, 2, 8, 9]]


@pytest.mark.parametrize("overwrite", [True, False])
def test_a_residual_is_copied_only_where_it_is_read_again(overwrite: bool) -> None:
    layer, x_grid, out = nn.Conv2d(1, 1, 1), grid(8, False, 0.5, 0.5), grid(8, False, 0.5, 0.25)
    step = layer_step(layer, x_grid, out, (1, 1, 4, 4), out)
    run = kernel_of(step, constants_of(layer), {"layer.weight": WEIGHT}, overwrite)
    u, residual = (stored(random_codes((1, 1, 4, 4), on), on) for on in (x_grid, out))
    kept = residual.clone()
    with Calls() as calls:
        run(u, residual)
    assert calls.counts["aten.clone.default"] == (not overwrite)
    assert overwrite or torch.equal(residual, kept)


# -- functions of one code, sums --

# Shapes, and whether they make whole rows of 64.
SIZES = {(256,): True, (16, 16): True, (2, 8, 4, 4): True, (1, 2, 2, 8, 8): True} | {
    (255,): False,
    (5, 51): False,
    (1, 3, 5, 17): False,
}


def laid_out(codes: Tensor, shape: tuple[int, ...]) -> Tensor:
    """As many of the codes as `shape` has, an image's channels side by side."""
    u = codes.flatten()[: math.prod(shape)].reshape(shape)
    return u.contiguous(memory_format=torch.channels_last) if u.dim() == 4 else u


@pytest.mark.parametrize("out", OUT_GRIDS.values(), ids=OUT_GRIDS)
def test_a_change_of_grid_and_a_clamp_of_every_code(out: QParams) -> None:
    x_grid = grid(8, True, 0.4, 0.125)
    for limits in limits_of(out):
        run = kernel(
            Lookup(Value("out", out), Value("x", x_grid), None if limits == UNLIMITED else Clamp(*limits), (), limits)
        )
        for shape, whole_rows in SIZES.items():
            x = laid_out(all_codes(x_grid), shape)
            with Calls() as calls:
                found = run(stored(x, x_grid))
            assert_codes(found, real_of(x, x_grid), limits, out)
            assert calls.counts["onednn.qconv_pointwise.default"] == whole_rows, "three times as fast as a table"


@pytest.mark.parametrize("on", OUT_GRIDS.values(), ids=OUT_GRIDS)
def test_a_clamp_on_the_grid_that_the_codes_have(on: QParams) -> None:
    x = all_codes(on)
    for limits in limits_of(on):
        assert_codes(
            kernel(Lookup(Value("out", on), Value("x", on), None, (), limits))(stored(x, on)),
            real_of(x, on),
            limits,
            on,
        )


@pytest.mark.parametrize("same", [True, False])
def test_a_function_of_every_code(same: bool) -> None:
    x_grid = grid(8, True, 0.4, 0.125)
    out = x_grid if same else grid(8, False, 0.3, 0.03125)
    absolute = Activation(Call(torch.abs, (Slot(0),)))
    run = kernel(Lookup(Value("out", out), Value("x", x_grid), absolute, (), None))
    for shape in SIZES:
        x = laid_out(all_codes(x_grid), shape)
        assert_codes(run(stored(x, x_grid)), real_of(x, x_grid).abs(), UNLIMITED, out)


@pytest.mark.parametrize("overwrite", [True, False])
@pytest.mark.parametrize("out", OUT_GRIDS.values(), ids=OUT_GRIDS)
def test_a_sum_of_every_two_codes(out: QParams, overwrite: bool) -> None:
    first, second = grid(8, True, 0.5, 0.25), grid(8, False, 0.2, 0.125)
    x, y = torch.meshgrid(all_codes(first), all_codes(second), indexing="ij")
    for limits in limits_of(out)[:: 3 if overwrite else 1]:
        run = kernel(Sum(Value("out", out), Value("x", first), Value("y", second), limits), overwrite)
        u, v = stored(x, first), stored(y, second)
        kept = v.clone()
        with Calls() as calls:
            found = run(u, v)
        assert_codes(found, real_of(x, first) + real_of(y, second), limits, out)
        assert calls.counts["onednn.qconv2d_pointwise.binary"] == 1
        assert calls.counts["aten.clone.default"] == (not overwrite)
        assert overwrite or torch.equal(v, kept)


@pytest.mark.parametrize(
    ("first_shape", "second_shape"),
    [((255,), (255,)), ((1, 3, 5, 17), (1, 3, 5, 17)), ((2, 8, 4, 4), (1, 8, 1, 1)), ((1, 8, 1, 1), (2, 8, 4, 4))],
)
def test_a_sum_of_any_two_sizes(first_shape: tuple[int, ...], second_shape: tuple[int, ...]) -> None:
    first, second, out = grid(8, True, 0.5, 0.25), grid(8, False, 0.2, 0.125), OUT_GRIDS["middle"]
    x, y = laid_out(all_codes(first), first_shape), laid_out(all_codes(second), second_shape)
    for limits in limits_of(out):
        run = kernel(Sum(Value("out", out), Value("x", first), Value("y", second), limits))
        assert_codes(run(stored(x, first), stored(y, second)), real_of(x, first) + real_of(y, second), limits, out)


# -- moves, and how codes lie --


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_maxima_of_codes(dims: int) -> None:
    """With more pixels than the codes that uint8 holds; of images of two axes by the operator that is ten times as
    fast as float."""
    pool = MaxPool((3,) * dims, (2,) * dims, (1,) * dims, (1,) * dims, False)
    on = grid(8, False, 0.3, 0.5)
    x = random_codes((2, 3, *((400,), (18, 20), (9, 8, 7))[dims - 1]), on)
    run = kernel(Moved(Value("out", on), pool, (Value("x", on),), tuple(x.shape[1:])))
    with Calls() as calls:
        found = run(laid_out(stored(x, on), tuple(x.shape)))
    wanted = (F.max_pool1d, F.max_pool2d, F.max_pool3d)[dims - 1](x.double(), 3, 2, 1)
    assert torch.equal(found.double(), wanted + Placed.of(on).offset)
    assert calls.counts["quantized.max_pool2d.default"] == (dims == 2)


def test_codes_of_images_are_stored_channels_last() -> None:
    assert Placed.of(NARROW).put(torch.randn(2, 3, 4, 5)).is_contiguous(memory_format=torch.channels_last)
    for shape in ((6, 5), (2, 3, 5), (2, 3, 4, 5, 6)):
        assert (
            Placed.of(NARROW).put(torch.randn(*reversed(shape)).permute(*reversed(range(len(shape))))).is_contiguous()
        )
