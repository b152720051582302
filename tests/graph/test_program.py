"""What the walk over an exported program makes of it: names, constants, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import random_images
from torch import Tensor, nn

from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, Graph, Network, capture, capture_float
from quant_sweep.graph.operations import BatchNorm
from quant_sweep.graph.program import graph_of
from quant_sweep.graph.trace import traced_for_many, traced_with_a_symbol


class Net(nn.Module):
    """Whatever is computed from modules, parameters and buffers."""

    def __init__(self, computed: Callable[[Any, Tensor], Any], **parts: nn.Module | Tensor) -> None:
        super().__init__()
        self.computed = computed
        for name, part in parts.items():
            if isinstance(part, nn.Module | nn.Parameter):
                setattr(self, name, part)
            else:
                self.register_buffer(name, part)

    def forward(self, x: Tensor) -> Any:
        return self.computed(self, x)


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape, generator=torch.Generator().manual_seed(len(shape))))


def line() -> nn.Module:
    return nn.Linear(3, 3, bias=False)


class Scaling(nn.Linear):
    """Its parameter, which its first operation reads, has the name of its result."""

    def __init__(self) -> None:
        super().__init__(3, 3, bias=False)
        self.output = parameter(3)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x * self.output)


class Residual(nn.Sequential):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + x


def inside(net: Net) -> Net:
    """The same as the module a.b of a network."""
    return Net(lambda m, x: m.a(x), a=Net(lambda m, x: m.b(x), b=net))


# A network, the shape of an image, the tensors that it computes (without .output) and its constants.
NAMED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], list[str], set[str]]] = {
    "a BatchNorm without weights": (
        lambda: nn.Sequential(nn.BatchNorm2d(3, affine=False)),
        (3, 4, 4),
        ["0"],
        {"0.weight", "0.bias", "0.running_mean", "0.running_var"},
    ),
    "a scale and a shift": (
        lambda: Net(lambda m, x: x * m.a + m.b, a=torch.rand(3, 1, 1), b=torch.rand(3, 1, 1)),
        (3, 4, 4),
        ["add"],
        {"add.scale", "add.shift"},
    ),
    "numbers of no parameter": (
        lambda: inside(Net(lambda _, x: x * torch.linspace(0, 1, 4) + torch.linspace(0, 1, 16).view(4, 4))),
        (3, 4, 4),
        ["a.b.mul", "a.b.add"],
        {"a.b.mul.constant", "a.b.add.constant"},
    ),
    "a weight under another name": (
        lambda: inside(Net(lambda m, x: F.linear(x, m.kernel), kernel=parameter(3, 3))),
        (3,),
        ["a.b.linear"],
        {"a.b.kernel"},
    ),
    "two weights of one module": (
        lambda: inside(
            Net(
                lambda m, x: F.linear(F.linear(x, m.other), m.weight),
                weight=parameter(3, 3),
                other=parameter(3, 3),
            )
        ),
        (3,),
        ["a.b.linear", "a.b.linear_1"],
        {"a.b.weight", "a.b.other"},
    ),
    "three weights of one parameter": (
        lambda: inside(Net(lambda m, x: sum(F.linear(x, m.weight * i) for i in (2, 3, 4)), weight=parameter(3, 3))),
        (3,),
        ["a.b.linear", "a.b.add", "a.b.linear_1", "a.b.add_1", "a.b.linear_2", "a.b.add_2"],
        {"a.b.weight", "a.b_1.weight", "a.b_2.weight"},
    ),
    "a weight that is read in float, too": (
        lambda: inside(Net(lambda m, x: F.linear(x, m.weight)[:, None] * m.weight, weight=parameter(3, 3))),
        (3,),
        ["a.b.linear", "a.b.unsqueeze", "a.b.mul"],
        {"a.b.weight", "a.b_1.weight"},
    ),
    "such a weight of the network itself": (
        lambda: Net(lambda m, x: F.linear(x, m.weight)[:, None] * m.weight, weight=parameter(3, 3)),
        (3,),
        ["linear", "unsqueeze", "mul"],
        {"weight", "weight_1"},
    ),
    "such a weight, and a layer with the name that is next": (
        lambda: Net(lambda m, x: (m.line(x) + m.line_1(x).relu())[:, None] * m.line.weight, line=line(), line_1=line()),
        (3,),
        ["line", "line_1", "relu", "add", "unsqueeze", "mul"],
        {"line.weight", "line_1.weight", "line_2.weight"},
    ),
    "a parameter with the name of a later tensor": (
        lambda: nn.Sequential(Scaling(), nn.ReLU()),
        (3,),
        ["0.mul", "0_1", "1"],
        {"0.output", "0.weight"},
    ),
    "a kind of a container": (
        lambda: nn.Sequential(Residual(nn.Linear(3, 3, bias=False))),
        (3,),
        ["0.0", "0.add"],
        {"0.0.weight"},
    ),
    "several tensors": (
        lambda: Net(lambda m, x: sum(m.line(x).sort(1)), line=line()),
        (3,),
        ["line", "sort.tensors", "getitem", "add", "getitem_1", "add_1"],
        {"line.weight"},
    ),
    "what passes a tensor on": (
        lambda: Net(
            lambda m, x: F.dropout(m.line(x).clone().contiguous().double().relu().float().clone(), 0.5, False),
            line=line(),
        ),
        (3,),
        ["line", "relu"],
        {"line.weight"},
    ),
}


@pytest.mark.parametrize("name", NAMED)
@torch.no_grad()
def test_names_of_tensors_and_constants(name: str) -> None:
    torch.manual_seed(0)
    make, shape, tensors, constants = NAMED[name]
    model, x = make().eval(), random_images(4, *shape)
    graph = capture_float(model, x).graph
    named = [node.name.removesuffix(".output") for node in graph.nodes]
    if name == "several tensors":  # in what order they are added is Python's affair
        assert set(named) >= {"line", "sort.tensors", "getitem", "getitem_1"}
    else:
        assert named == tensors
    assert set(graph.constants) == constants
    torch.testing.assert_close(Network(graph)(x), model(x))


def test_shapes_and_modules_of_nodes() -> None:
    model = nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.Flatten())
    graph = capture_float(model, random_images(2, 3, 8, 8)).graph
    assert graph.input_shape == (1, 3, 8, 8)
    assert [(node.shape, node.module) for node in graph.nodes] == [
        ((1, 4, 6, 6), "0.0"),
        ((1, 4, 6, 6), "0.1"),
        ((1, 144), "1"),
    ]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@torch.no_grad()
def test_constants_are_float32_or_whole_numbers(dtype: torch.dtype) -> None:
    index, factors = torch.tensor([2, 0]), torch.tensor([0.5, 2.0])
    net = Net(
        lambda m, x: m.line(x)[:, m.index] * (m.factors + 1) * m.count,
        line=line(),
        index=index,
        factors=factors,
        count=torch.tensor([2, 3]),
    )
    constants = capture_float(net.to(dtype), random_images(4, 3)).graph.constants
    whole = {"index", "count"}
    assert whole < set(constants)
    assert {name: value.dtype for name, value in constants.items()} == {
        name: torch.int64 if name in whole else torch.float32 for name in constants
    }


@torch.no_grad()
def test_constants_are_float32_where_float64_is_the_default() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        net = Net(lambda m, x: m.line(x) * torch.linspace(0, 1, 3), line=line())
        constants = capture_float(net, random_images(4, 3).double()).graph.constants
    finally:
        torch.set_default_dtype(torch.float32)
    assert {name: value.dtype for name, value in constants.items()} == {
        "line.weight": torch.float32,
        "mul.constant": torch.float32,
    }


@torch.no_grad()
def test_a_float_reader_of_one_weight_of_two_layers_reads_no_quantized_weight() -> None:
    """Not even where a layer that shares it has the very name that a copy would get."""
    net = Net(lambda m, x: (m.line(x) + m.line_1(x).relu())[:, None] * m.line.weight, line_1=line(), line=line())
    net.line.weight = net.line_1.weight  # type: ignore[union-attr]
    graph = capture(net, random_images(4, 3), Fusion.none)
    (product,) = (node for node in graph.graph.nodes if node.name == "mul.output")
    assert not {quantizer.name for quantizer in graph.weights} & set(product.inputs)


# -- momentum of BatchNorm, with which statistics are estimated again --


class Activated(nn.BatchNorm1d):
    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x).relu()


def test_momentum_is_the_module_s() -> None:
    functional = Net(lambda m, x: F.batch_norm(x, m.mean, m.variance), mean=torch.zeros(3), variance=torch.ones(3))
    norms = (nn.BatchNorm1d(3, momentum=None), nn.BatchNorm1d(3, momentum=0.3), Activated(3, momentum=None), functional)
    graph = capture_float(nn.Sequential(*norms), random_images(4, 3)).graph
    momenta = [node.operation.momentum for node in graph.nodes if isinstance(node.operation, BatchNorm)]
    assert [momentum is None for momentum in momenta] == [True, False, True, False]


# -- programs that capture itself would not let in --


def graph_without_checks(model: nn.Module, x: Tensor, *, symbol: bool = False) -> Graph:
    with torch.no_grad():
        program = traced_with_a_symbol(model, x) if symbol else traced_for_many(model, x, 100)
        return graph_of(program, model, "its-name")


@pytest.mark.parametrize(
    "computed",
    [
        lambda _, x: (x * 2, 3),
        lambda _, x: (x * 2, None),
    ],
    ids=["a number", "nothing"],
)
def test_refused_with_the_model_s_name(computed: Callable[[Any, Tensor], Any]) -> None:
    with pytest.raises(InputError, match="its-name"):
        graph_without_checks(Net(computed).eval(), random_images(2, 3))


def test_a_constant_may_be_returned() -> None:
    net = Net(lambda m, x: (m.line(x), m.bias, torch.arange(3.0) + m.bias * 0), line=line(), bias=parameter(3)).eval()
    graph = graph_without_checks(net, random_images(2, 3))
    assert graph.outputs[:2] == ("line.output", "bias")
    assert torch.equal(graph.constants[graph.outputs[2]], torch.arange(3.0))


def test_a_constant_of_no_parameter_may_be_returned() -> None:
    graph = graph_without_checks(Net(lambda _, x: (x + 1, torch.arange(3.0))).eval(), random_images(2, 3))
    assert graph.outputs == ("add.output", "returned.constant")


class Counted(nn.Linear):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:  # type: ignore[override]
        return super().forward(x), 2 * x.shape[0]


def test_a_layer_that_ends_with_a_size_gives_its_tensor_its_name() -> None:
    def reshaped(net: Any, x: Tensor) -> Tensor:
        y, rows = net.line(x)
        return y.reshape(rows, -1)  # type: ignore[no-any-return]

    graph = graph_without_checks(Net(reshaped, line=Counted(4, 4)).eval(), random_images(3, 4), symbol=True)
    assert [node.name for node in graph.nodes] == ["line.output", "reshape.output"]
