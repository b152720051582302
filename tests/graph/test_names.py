"""Names of tensors: today's networks keep theirs, and no two tensors share one, whatever modules are called."""

import re

import pytest
import torch
import torch.nn.functional as F
from networks import graphs, random_images
from small_networks import captured, cifar_resnet20
from torch import Tensor, nn

from quant_sweep.graph import INPUT, Fusion, Network
from quant_sweep.graph.interpret import relative_difference


def test_resnet20_layers() -> None:
    """Every tensor of the float network, not only those that are quantized."""
    graph = captured(cifar_resnet20, Fusion.none).graph
    names = [node.name.removesuffix(".output") for node in graph.nodes]
    of_block = [f"layer1.0.{part}" for part in ("conv1", "bn1", "relu1", "conv2", "bn2", "add", "relu2")]
    assert names[:10] == ["conv1", "bn1", "relu", *of_block]
    assert names[-3:] == ["avgpool", "flatten", "linear"]
    assert {"conv1.weight", "bn1.running_mean", "layer3.2.bn2.bias", "linear.bias"} <= set(graph.constants)
    assert {node.module for node in graph.nodes} >= {"", "conv1", "layer1.0.conv1", "layer1.0", "linear"}


# -- names that could collide --


class Called(nn.Module):
    """Modules and parameters under whatever names."""

    def __init__(self, forward, **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.called = forward
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.called(self, x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


class Output(nn.Module):
    """Whose parameter has the name that its result would have."""

    def __init__(self) -> None:
        super().__init__()
        self.output = parameter(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.output


class Scaled(nn.Linear):
    """A layer of torch's with such a parameter more."""

    def __init__(self) -> None:
        super().__init__(3, 3)
        self.output = parameter(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) * self.output


class ScaledBefore(Scaled):
    """Which reads the parameter before it computes what is called so."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x * self.output, self.weight)


CALLED = {
    "a module called input": Called(
        lambda m, x: m.head(m.input(x).relu()), input=nn.Conv2d(3, 3, 1), head=nn.Conv2d(3, 2, 1)
    ),
    "a module called input, twice": Called(lambda m, x: m.input(m.input(x).relu()), input=nn.Conv2d(3, 3, 1)),
    "a parameter called input": Called(lambda m, x: F.relu(x @ m.input) @ m.input, input=parameter(8, 8)),
    "a buffer called input": Called(
        lambda m, x: m.conv(x * m.input), input=torch.rand(3, 1, 1), conv=nn.Conv2d(3, 3, 1)
    ),
    "a parameter called output": nn.Sequential(nn.Flatten(2), nn.Linear(64, 3), Output(), nn.ReLU(), Output()),
    "a layer with a parameter called output": nn.Sequential(nn.Flatten(2), nn.Linear(64, 3), Scaled(), Scaled()),
    "a parameter called output before its layer": nn.Sequential(nn.Flatten(2), nn.Linear(64, 3), ScaledBefore()),
    "a parameter called weight": Called(
        lambda m, x: F.conv2d(x, m.weight).relu() @ m.bias, weight=parameter(4, 3, 1, 1), bias=parameter(8, 8)
    ),
    "modules called relu, relu_1 and F.relu": Called(
        lambda m, x: m.conv(F.relu(m.conv(m.relu_1(m.conv(m.relu(m.conv(m.relu(x)))))))),
        conv=nn.Conv2d(3, 3, 1),
        relu=nn.ReLU(),
        relu_1=nn.ReLU(),
    ),
    "a module called as a function": Called(lambda m, x: m.add(m.add(x) + x) + x, add=nn.Conv2d(3, 3, 1)),
    "one module under two names": Called(lambda m, x: m.b(m.a(x).relu()), **dict.fromkeys("ab", nn.Conv2d(3, 3, 1))),
    "modules in a list": Called(
        lambda m, x: m.layers[1](m.layers[0](x).relu()), layers=nn.ModuleList([nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)])
    ),
    "a name with a point in it": Called(
        lambda m, x: m.parts["0_1"](m.parts["0"](x).relu()),
        parts=nn.ModuleDict({"0": nn.Conv2d(3, 3, 1), "0_1": nn.Conv2d(3, 3, 1)}),
    ),
    "a constant of no parameter": Called(
        lambda m, x: m.conv(x + torch.linspace(0, 1, 8)) * torch.linspace(1, 2, 8), conv=nn.Conv2d(3, 3, 1)
    ),
    "numbers that are written down": Called(
        lambda m, x: m.conv(x * torch.tensor([0.5, 1.0, 2.0])[:, None, None]), conv=nn.Conv2d(3, 3, 1)
    ),
}


@pytest.mark.parametrize("name", CALLED)
@torch.no_grad()
def test_no_two_tensors_share_a_name(name: str) -> None:
    model, x = CALLED[name].eval(), random_images()
    expected = model(x)
    for graph in graphs(model, x).values():
        assert relative_difference(Network(graph.graph)(x), expected) < 1e-5
        names = [INPUT, *graph.graph.constants, *(node.name for node in graph.graph.nodes)]
        assert len(set(names)) == len(names)
        assert len(set(graph.names)) == len(graph.names)
        assert all(re.fullmatch(r"[A-Za-z0-9_\-./]+", name) for name in names), "MLflow takes no others"
        assert all(name.endswith(".output") for name in names[1 + len(graph.graph.constants) :])


def test_input_is_the_network_s_own() -> None:
    graph = graphs(CALLED["a module called input"], random_images())[Fusion.bn]
    assert graph.names == ("input", "input.output", "relu.output", "input.weight", "head.weight")


def test_calls_of_one_module_are_counted() -> None:
    graph = graphs(CALLED["modules called relu, relu_1 and F.relu"], random_images())[Fusion.bn].graph
    names = [node.name.removesuffix(".output") for node in graph.nodes]
    assert names == ["relu", "conv", "relu_1", "conv_1", "relu_1_1", "conv_2", "relu_2", "conv_3"]
    weights = {name for name in graph.constants if name.endswith("weight")}
    assert weights == {"conv.weight"}, "one layer, one weight, however often it is called"


def test_a_module_under_two_names_is_called_by_either() -> None:
    shared = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3, momentum=None))
    graph = graphs(Called(lambda m, x: m.b(m.a(x).relu()), a=shared, b=shared).eval(), random_images())[Fusion.none]
    nodes = graph.graph.node
    assert list(nodes) == ["a.0.output", "a.1.output", "relu.output", "b.0.output", "b.1.output"]
    assert nodes["a.1.output"].operation == nodes["b.1.output"].operation


def test_a_weight_that_is_computed_is_its_layer_s() -> None:
    conv = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 3, 1, bias=False))
    graph = graphs(Called(lambda m, x: m.conv(m.conv(x).relu()), conv=conv), random_images())[Fusion.none].graph
    assert set(graph.constants) == {"conv.weight"}


def test_layers_that_share_a_parameter_have_a_weight_each() -> None:
    a, b = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
    b.weight = a.weight
    graph = graphs(nn.Sequential(a, nn.ReLU(), b), random_images())[Fusion.bn]
    assert [q.name for q in graph.weights] == ["0.weight", "2.weight"]


def test_what_else_reads_a_layer_s_weight_reads_one_copy_in_float() -> None:
    line = nn.Linear(3, 3, bias=False)
    reads = Called(lambda m, x: m.line(x)[:, None] * m.line.weight + x.relu()[:, None] * m.line.weight, line=line)
    for model, path in ((reads, ""), (nn.Sequential(nn.Sequential(reads)), "0.0.")):
        graph = graphs(model, torch.randn(4, 3))[Fusion.none].graph
        assert set(graph.constants) == {f"{path}line.weight", f"{path}line_1.weight"}


class Kernel(nn.Module):
    """A convolution with a parameter that is not called weight, beside one that is."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel, self.weight = parameter(3, 3, 1, 1), parameter(3, 8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x, self.kernel) * self.weight


class AddsItsInput(nn.Sequential):
    """A container with an operation of its own."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


@pytest.mark.parametrize(
    ("model", "nodes", "constants"),
    [
        # a parameter has its own name, and a constant of none that of what reads it
        (nn.Sequential(Kernel()), ["0.conv2d", "0.mul"], ["0.kernel", "0.weight"]),
        (Called(lambda _, x: F.conv2d(x, torch.ones(3, 3, 1, 1))), ["conv2d"], ["conv2d.weight"]),
        (Called(lambda _, x: x @ torch.eye(8)[:, :5].sin()), ["matmul"], ["matmul.weight"]),
        (Called(lambda _, x: x[:, torch.tensor([2, 0])]), ["index"], ["index.constant"]),
        (
            nn.Sequential(nn.BatchNorm2d(3, affine=False)),
            ["0"],
            ["0.weight", "0.bias", "0.running_mean", "0.running_var"],
        ),
        (Called(lambda _, x: x + torch.arange(1.0, 4)[:, None, None]), ["add"], ["add.scale", "add.shift"]),
        # a layer is called as its module, a container is none
        (nn.Sequential(nn.Hardswish()), ["0"], []),
        (nn.Sequential(AddsItsInput(nn.Hardswish())), ["0.0", "0.add"], []),
        # several tensors at once
        (Called(lambda _, x: x.max(3)[0]), ["max.tensors", "getitem"], []),
        (Called(lambda _, x: torch.var_mean(x, 3)[1]), ["var_mean.tensors", "getitem"], []),
    ],
)
def test_what_tensors_are_called(model: nn.Module, nodes: list[str], constants: list[str]) -> None:
    graph = graphs(model.eval(), random_images())[Fusion.none].graph
    assert [node.name for node in graph.nodes] == [f"{name}.output" for name in nodes]
    assert sorted(graph.constants) == sorted(constants)
    assert {node.module for node in graph.nodes} <= dict(model.named_modules()).keys()


def test_transposed_convolutions_have_their_outputs_on_axis_0() -> None:
    graph = graphs(nn.Sequential(nn.ConvTranspose2d(3, 8, 2), nn.ConvTranspose2d(8, 6, 3, groups=2)), random_images())
    constants = graph[Fusion.bn].graph.constants
    assert constants["0.weight"].shape == (8, 3, 2, 2)
    assert constants["1.weight"].shape == (6, 4, 3, 3)
