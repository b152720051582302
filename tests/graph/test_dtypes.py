"""Models in half, bfloat16, double and several kinds of numbers at once: computed in float32, equal to the model."""

import pytest
import torch
import torch.nn.functional as F
from networks import graphs, norms, random_images, randomize_batch_norms
from torch import Tensor, nn

from quant_sweep.graph import Fusion, Network, capture_float
from quant_sweep.graph.interpret import relative_difference

ROUNDING = {torch.float16: 5e-3, torch.bfloat16: 3e-2, torch.float32: 1e-5, torch.float64: 1e-5}


class Body(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.head = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn(self.conv(x))).mean((2, 3)))


class Cast(Body):
    """Images in float32, whatever its own numbers are."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.conv.weight.dtype)).float()


class HalfBody(Body):
    """The convolution in half, the head in float32, as mixed precision has it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv.half()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn(self.conv(x.half()).float())).mean((2, 3)))


class HalfInside(Body):
    """Parameters in float32, and one operation in half."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.conv(x))).half()
        return self.head(y.mean((2, 3)).float())


class Autocast(Body):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return super().forward(x).float()


class DoubleNorm(Body):
    def __init__(self) -> None:
        super().__init__()
        self.bn.double()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.bn(self.conv(x).double())).float().mean((2, 3)))


class DoubleSum(Body):
    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.bn(self.conv(x)).mean((2, 3), dtype=torch.float64).to(x.dtype))


class WholeNumbers(Body):
    """Masks and positions as whole numbers."""

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(self.conv(x)))
        mask = (y > 0.1).to(torch.int32) + torch.arange(6, dtype=torch.int64)
        return self.head((y * mask).mean((2, 3)))


class TypeOf(Body):
    def forward(self, x: Tensor) -> Tensor:
        scale = torch.tensor(2.0).type_as(x)
        return super().forward(x) * scale.to(x.device, x.dtype)


@pytest.mark.parametrize("dtype", ROUNDING)
@pytest.mark.parametrize("net", [Body, Cast, TypeOf])
@torch.no_grad()
def test_models_in_other_numbers(net: type[nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model, x = randomize_batch_norms(net()).to(dtype), random_images()
    expected = model(x.to(dtype))
    for fusion, graph in graphs(model, x).items():
        assert all(value.dtype == torch.float32 for value in graph.graph.constants.values())
        found = Network(graph.graph)(x)
        assert found.dtype == torch.float32
        assert relative_difference(found, expected) < ROUNDING[dtype]
        assert norms(graph) == (["bn.output"] if fusion is Fusion.none else [])


@pytest.mark.parametrize("net", [HalfBody, HalfInside, Autocast, DoubleNorm, DoubleSum, WholeNumbers])
@torch.no_grad()
def test_several_kinds_of_numbers_at_once(net: type[nn.Module]) -> None:
    torch.manual_seed(0)
    model, x = randomize_batch_norms(net()), random_images()
    for fusion, graph in graphs(model, x).items():
        found = Network(graph.graph)(x)
        assert relative_difference(found, model(x)) < 3e-2
        assert {q.name for q in graph.weights} == {"conv.weight", "head.weight"}
        assert norms(graph) == (["bn.output"] if fusion is Fusion.none else [])


def test_computed_constants_are_in_float32_or_whole_numbers() -> None:
    class Positions(Body):
        def forward(self, x: Tensor) -> Tensor:
            places = torch.arange(8)
            return super().forward((x + places.double() / 8).float()) + x.flatten(1)[:, places].sum(1, keepdim=True)

    constants = capture_float(Positions(), random_images()).graph.constants
    assert {value.dtype for value in constants.values()} == {torch.float32, torch.int64}


class Places(Body):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.maximum(x, torch.arange(8) / 8))


def test_constants_are_in_float32_where_numbers_are_double_unless_told() -> None:
    usual = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        captured = capture_float(Places().eval(), random_images(2, 3, 8, 8))
    finally:
        torch.set_default_dtype(usual)
    assert {value.dtype for value in captured.graph.constants.values()} == {torch.float32}
    assert Network(captured.graph)(captured.images).dtype == torch.float32


def test_what_a_model_in_half_returned_is_kept_in_half() -> None:
    """Also of a model with one parameter."""
    torch.manual_seed(0)
    x = random_images(3, 3, 8, 8)
    for model in (Body().half().eval(), nn.Conv2d(3, 4, 1, bias=False).half()):
        with torch.no_grad():
            captured = capture_float(model, x)
            assert captured.outputs.dtype == torch.float16
            assert torch.equal(captured.outputs, model(x.half()))
        assert captured.images.dtype == torch.float32


def test_a_model_is_given_more_rounding_the_coarser_its_numbers_are() -> None:
    torch.manual_seed(0)
    models = (Body().double(), Body(), HalfInside(), Body().half(), Autocast(), Body().bfloat16())
    double, single, mixed, half, autocast, bfloat = (capture_float(m.eval(), random_images()).tolerance for m in models)
    assert double == single < mixed == half < autocast == bfloat < 0.5
    assert single < 1e-3


def test_the_model_keeps_its_numbers() -> None:
    model = Body().half()
    graphs(model, random_images())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float16}
