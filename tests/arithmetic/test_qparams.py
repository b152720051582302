"""The integer grid and the promises of QParams."""

import pytest
import torch

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.errors import InputError


def qparams(scale: object = 0.5, zero_point: object = 0, **spec: object) -> QParams:
    grid = QuantSpec(**{"bits": 8, **spec})
    return QParams(torch.tensor(scale, dtype=torch.float32), torch.tensor(zero_point, dtype=torch.int32), grid)


@pytest.mark.parametrize(
    ("signed", "narrow", "qmin", "qmax"),
    [(False, False, 0, 255), (False, True, 1, 255), (True, False, -128, 127), (True, True, -127, 127)],
)
def test_eight_bits(signed: bool, narrow: bool, qmin: int, qmax: int) -> None:
    spec = QuantSpec(8, signed=signed, narrow_range=narrow)
    assert (spec.qmin, spec.qmax, spec.steps) == (qmin, qmax, qmax - qmin)


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("bits", range(2, 17))
def test_a_grid_of_b_bits_has_2_to_the_b_codes(bits: int, signed: bool) -> None:
    assert QuantSpec(bits, signed=signed).steps == 2**bits - 1
    assert QuantSpec(bits, signed=signed, narrow_range=True).steps == 2**bits - 2


@pytest.mark.parametrize("bits", [-1, 0, 1, 17, 33, 8.0, 8.5, "8", None, True])
def test_other_widths_are_refused_with_value_and_bounds(bits: object) -> None:
    with pytest.raises(InputError, match=r"^bits=.*: allowed are the whole numbers 2 to 16$") as error:
        QuantSpec(bits)  # type: ignore[arg-type]
    assert f"bits={bits!r}:" in str(error.value)


def test_negative_channel_axis_is_refused() -> None:
    with pytest.raises(InputError, match=r"channel_axis=-1"):
        QuantSpec(8, channel_axis=-1)


def test_ends_of_the_grid() -> None:
    grid = qparams(0.5, 100)
    assert (grid.lo.item(), grid.hi.item()) == (-50.0, 77.5)


def test_text_shows_numbers() -> None:
    assert str(qparams(0.5, 100)) == "scale=0.5, zero_point=100, bits=8"
    assert str(qparams([0.5, 2.0], [0, 1], channel_axis=0)) == "scale=0.5..2 over 2 channels, bits=8"


@pytest.mark.parametrize("scale", [0.0, -1.0, float("nan"), float("inf")])
def test_scale_must_be_finite_and_positive(scale: float) -> None:
    with pytest.raises(InputError, match=r"finite and > 0"):
        qparams(scale)


@pytest.mark.parametrize(
    ("scale", "zero_point"), [([1.0, 0.0, 2.0], [0, 0, 0]), ([1.0, 2.0, float("nan")], [0, 0, 0]), ([1, 1], [0, 999])]
)
def test_one_bad_channel_among_good_ones_is_refused(scale: list[float], zero_point: list[int]) -> None:
    with pytest.raises(InputError, match=r"^QParams: (scale|zero_point) must"):
        qparams(scale, zero_point, channel_axis=0)


@pytest.mark.parametrize("zero_point", [-1, 256])
def test_zero_point_must_lie_on_the_grid(zero_point: int) -> None:
    with pytest.raises(InputError, match=rf"\[0, 255\], got {zero_point}"):
        qparams(1.0, zero_point)


@pytest.mark.parametrize("signed", [False, True])
def test_the_ends_of_the_grid_may_be_its_zero_point(signed: bool) -> None:
    """A range below 0 has it at the highest code."""
    spec = QuantSpec(8, signed=signed)
    for end in (spec.qmin, spec.qmax):
        assert qparams(1.0, end, signed=signed).zero_point.item() == end


def test_scale_and_zero_point_move_to_a_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tensors on meta have a device and no values to check."""
    grid = qparams()
    monkeypatch.setattr(QParams, "__post_init__", lambda _: None)
    moved = grid.to(torch.device("meta"))
    assert (moved.scale.device.type, moved.zero_point.device.type, moved.spec) == ("meta", "meta", grid.spec)


@pytest.mark.parametrize(
    ("scale", "zero_point", "axis"),
    [([1.0], [0], None), (1.0, 0, 0), ([1.0, 2.0], [0], 0), ([[1.0]], [[0]], 0)],
)
def test_shapes_must_fit_the_channel_axis(scale: object, zero_point: object, axis: int | None) -> None:
    with pytest.raises(InputError, match="must both be"):
        qparams(scale, zero_point, channel_axis=axis)


def test_dtypes_are_fixed() -> None:
    with pytest.raises(InputError, match="float32 scale, int32 zero_point"):
        QParams(torch.tensor(1.0, dtype=torch.float64), torch.tensor(0, dtype=torch.int32), QuantSpec(8))
    with pytest.raises(InputError, match="float32 scale, int32 zero_point"):
        QParams(torch.tensor(1.0), torch.tensor(0), QuantSpec(8))
