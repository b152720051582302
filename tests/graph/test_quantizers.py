"""Which points there are, derived from the definition of each fusion rather than frozen from a run."""

import pytest
import torch
import torch.nn.functional as F
from networks import point_names, randomize_batch_norms, run_on_coarse_grids
from torch import Tensor, nn

from quant_sweep.graph import Fusion, after_clamp, insert_at_points, quantizable
from quant_sweep.models import resnet20

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]


def of_blocks(*tensors: str) -> list[str]:
    return [f"{block}.{tensor}.output" for block in BLOCKS for tensor in tensors]


@pytest.mark.parametrize(
    ("fusion", "expected"),
    [
        # Inputs of every convolution, ReLU, average pooling and linear layer. What only the residual add reads
        # (bn2.output) and what only a BatchNorm reads (conv1.output) stays float.
        (
            Fusion.none,
            ["input", "bn1.output", "relu.output", *of_blocks("bn1", "relu1", "add", "relu2"), "avgpool.output"],
        ),
        # Outputs of every convolution and every ReLU, and the linear layer's input. The add stays in float.
        (
            Fusion.bn,
            ["input", "conv1.output", "relu.output", *of_blocks("conv1", "relu1", "conv2", "relu2"), "avgpool.output"],
        ),
        # One rounding after conv-bn-relu and one after conv-bn-add-relu.
        (Fusion.conv_bn_relu, ["input", "relu.output", *of_blocks("relu1", "relu2"), "avgpool.output"]),
    ],
    ids=[fusion.name for fusion in Fusion],
)
def test_resnet20(fusion: Fusion, expected: list[str]) -> None:
    graph = quantizable(resnet20(num_classes=10, in_channels=3), fusion)
    assert [point.name for point in graph.activations] == expected
    weights = ["conv1.weight", *(f"{b}.conv{i}.weight" for b in BLOCKS for i in (1, 2)), "linear.weight"]
    assert [point.name for point in graph.weights] == weights
    assert graph.names == (*expected, *weights)


class Residual(nn.Module):
    """conv-bn-add-relu, in either order of the operands and with any second operand."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form = form
        self.conv, self.bn, self.relu = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU()
        self.other, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        total = {
            "add": lambda: y + x,
            "swapped": lambda: x + y,
            "torch.add": lambda: torch.add(y, x),
            "method": lambda: y.add(x),
            "two layers": lambda: y + self.other(x),
            "pooled": lambda: y + F.max_pool2d(x, 1),
            "averaged": lambda: y + F.avg_pool2d(x, 1),
            "itself": lambda: y + y,
            "number": lambda: y + 1.0,
            "number method": lambda: y.add(1.0),
            "number in place": lambda: y.add_(1.0),
            "keyword": lambda: torch.add(y, other=x),
            "alpha": lambda: torch.add(y, x, alpha=2),
        }[self.form]()
        return self.last(self.relu(total))


@pytest.mark.parametrize(
    ("form", "between"),
    [
        ("add", []),
        ("swapped", []),
        ("torch.add", []),
        ("method", []),
        ("two layers", ["other.output"]),  # only one of them can be the accumulator
        ("pooled", []),  # the input is on a grid, and so is what max-pooling selects from it
        ("averaged", ["avg_pool2d.output"]),
        ("itself", ["conv.output"]),
        ("number", ["conv.output"]),
        ("number method", ["conv.output"]),
        ("number in place", ["conv.output"]),
        ("keyword", ["conv.output"]),
        ("alpha", ["conv.output"]),
    ],
)
def test_residual_add_is_fused_where_one_operand_is_an_accumulator(form: str, between: list[str]) -> None:
    model = Residual(form)
    # Where no add is fused, ReLU follows a float operation and its output is read by a convolution: a point, too.
    assert point_names(model, Fusion.conv_bn_relu) == ["input", *between, "relu.output"]
    for fusion in Fusion:
        on_grid, _ = run_on_coarse_grids(quantizable(model, fusion), torch.randn(2, 3, 8, 8))
        assert all(on_grid.values())


def test_conv_bn_add_relu_yields_only_the_fused_output() -> None:
    graph = quantizable(Residual("add"), Fusion.conv_bn_relu)
    assert [(point.name, point.readers) for point in graph.activations] == [
        ("input", ("conv", "add")),
        ("relu.output", ("last",)),
    ]


def test_a_second_reader_prevents_fusing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.last(self.relu(y)) * y

    assert point_names(Net(), Fusion.conv_bn_relu) == ["input", "conv.output", "relu.output", "last.output"]


@pytest.mark.parametrize(
    ("fusion", "first", "in_blocks"),
    [
        # What a ReLU reads is the output of a BatchNorm or a sum.
        (Fusion.none, {"bn1.output": "relu.output"}, {"bn1": "relu1", "add": "relu2"}),
        # The second convolution of a block goes into the sum, which is in float.
        (Fusion.bn, {"conv1.output": "relu.output"}, {"conv1": "relu1"}),
        (Fusion.conv_bn_relu, {}, {}),
    ],
    ids=[fusion.name for fusion in Fusion],
)
def test_before_and_after_a_clamp(fusion: Fusion, first: dict[str, str], in_blocks: dict[str, str]) -> None:
    graph = quantizable(resnet20(num_classes=10, in_channels=3), fusion)
    expected = {f"{b}.{before}.output": f"{b}.{after}.output" for b in BLOCKS for before, after in in_blocks.items()}
    assert after_clamp(graph) == first | expected


def test_what_others_read_too_is_not_only_before_a_clamp() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(3, 3, 1), nn.ReLU6(), nn.Conv2d(3, 3, 1)
            self.sigmoid, self.alone = nn.Sigmoid(), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.alone(self.sigmoid(self.alone(x)))
            y = self.conv(y)
            return self.last(self.relu(y)) * y + self.last(self.relu(self.last(x)))

    assert after_clamp(quantizable(Net(), Fusion.bn)) == {"last_1.output": "relu_1.output"}


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
@pytest.mark.parametrize(
    "tail",
    [nn.Identity(), nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Sequential(nn.MaxPool2d(2), nn.Flatten())],
    ids=["conv", "flatten", "relu", "maxpool"],
)
def test_the_output_is_never_quantized(tail: nn.Module, fusion: Fusion) -> None:
    graph = quantizable(nn.Sequential(nn.Conv2d(3, 3, 1), tail), fusion)
    fed = {arg.name for node in graph.module.graph.nodes if node.op == "output" for arg in node.all_input_nodes}
    assert not any(point.node in fed or "output" in point.readers for point in graph.activations)


def test_an_output_that_is_read_inside_too_leaves_in_float() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return y.flatten(1), self.last(y)

    for fusion in Fusion:
        points = {point.name: point.readers for point in quantizable(Net(), fusion).activations}
        assert points == {"input": ("conv",), "conv.output": ("last",)}


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
def test_names_stay_unique_where_modules_are_called_again(fusion: Fusion) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.relu_1 = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            for relu in (self.relu, self.relu, self.relu_1, F.relu, self.relu):
                x = relu(self.conv(x))
            return self.conv(x)

    names = quantizable(Net(), fusion).names
    assert len(set(names)) == len(names)
    assert {"relu.output", "relu_1.output"} <= set(names)


class Awkward(nn.Module):
    """Module names that could be mistaken for one another, or for what `insert_at_points` adds."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ModuleDict({"b": nn.Conv2d(3, 3, 1)})
        self.a_b, self.points, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.points(self.a_b(self.a["b"](x))))


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
def test_each_module_stands_behind_its_own_point(fusion: Fusion) -> None:
    class Note(nn.Module):
        def __init__(self, name: str) -> None:
            super().__init__()
            self.name = name

        def forward(self, x: Tensor) -> Tensor:
            passed.append(self.name)
            return x

    graph, passed = quantizable(Awkward(), fusion), list[str]()
    insert_at_points(graph, {point.name: Note(point.name) for point in graph.activations})(torch.randn(1, 3, 4, 4))
    assert passed == [point.name for point in graph.activations]
    assert passed == ["input", "a.b.output", "a_b.output", "points.output"]


def test_points_without_a_module_are_left_alone() -> None:
    graph = quantizable(randomize_batch_norms(resnet20(10, 3)), Fusion.bn)
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        assert torch.equal(insert_at_points(graph, {})(x), graph.module(x))
        halved = insert_at_points(graph, {"input": _Halve()})(x)
        assert torch.equal(halved, graph.module(x / 2))


class _Halve(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x / 2


@pytest.mark.parametrize(
    ("between", "points"),
    [
        (nn.MaxPool2d(2), []),
        (nn.Sequential(nn.MaxPool2d(2), nn.ZeroPad2d(1), nn.ChannelShuffle(3)), []),
        (nn.AvgPool2d(2), ["1.output"]),
        (nn.Hardswish(), ["1.output"]),
        (nn.Softmax(dim=1), ["1.output"]),
        (nn.ConstantPad2d(1, 0.3), ["1.output"]),
    ],
)
def test_operations_that_only_move_values_need_no_point_of_their_own(between: nn.Module, points: list[str]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), between, nn.Conv2d(3, 3, 1))
    for fusion in (Fusion.bn, Fusion.conv_bn_relu):
        assert point_names(model, fusion) == ["input", "0.output", *points]


class Padded(nn.Module):
    def __init__(self, mode: str, value: float | None) -> None:
        super().__init__()
        self.conv, self.last, self.mode, self.value = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), mode, value

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.pad(self.conv(x), (1, 1, 1, 1), self.mode, self.value))


@pytest.mark.parametrize(
    ("mode", "value", "own"), [("constant", None, 0), ("constant", 0, 0), ("reflect", None, 0), ("constant", 0.3, 1)]
)
def test_padding(mode: str, value: float | None, own: int) -> None:
    """0 lies on every grid and reflected values on the tensor's own; another constant makes new values."""
    assert point_names(Padded(mode, value), Fusion.bn) == ["input", "conv.output", *["pad.output"] * own]
