"""Which quantizers there are, derived from the definition of each fusion rather than frozen from a run."""

import math
from typing import Any

import pytest
import small_networks
import torch
import torch.nn.functional as F
from exact_kernels import needs_int8
from networks import (
    called,
    graphs,
    held_against_the_model,
    quantizer_names,
    random_images,
    run_on_coarse_grids,
)
from small_networks import cifar_resnet20
from torch import Tensor, nn

from quant_sweep.graph import Fusion, Network, QuantGraph, after_clamp, capture, insert_at_quantizers
from quant_sweep.graph.operations import Call, Move, Other, Weighted
from quant_sweep.graph.quantizers import kind_of

BLOCKS = [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in (0, 1, 2)]


def captured(model: nn.Module, fusion: Fusion) -> QuantGraph:
    return capture(model, random_images(2, 3, 8, 8), fusion)


def resnet(fusion: Fusion) -> QuantGraph:
    return small_networks.captured(cifar_resnet20, fusion)


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
    graph = resnet(fusion)
    assert [quantizer.name for quantizer in graph.activations] == expected
    weights = ["conv1.weight", *(f"{b}.conv{i}.weight" for b in BLOCKS for i in (1, 2)), "linear.weight"]
    assert [quantizer.name for quantizer in graph.weights] == weights
    assert graph.names == (*expected, *weights)
    assert graph.fusion is fusion


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
        ("number", []),  # what is computed in float next needs no grid
        ("number method", []),
        ("number in place", []),
        ("keyword", []),  # another spelling of the same
        ("alpha", []),
    ],
)
def test_residual_add_is_fused_where_one_operand_is_an_accumulator(form: str, between: list[str]) -> None:
    found = graphs(Residual(form), random_images(2, 3, 8, 8))
    # Where no add is fused, ReLU follows a float operation and its output is read by a convolution: a quantizer, too.
    assert [q.name for q in found[Fusion.conv_bn_relu].activations] == ["input", *between, "relu.output"]
    for graph in found.values():
        on_grid, _ = run_on_coarse_grids(graph, torch.randn(2, 3, 8, 8))
        assert all(on_grid.values())


def test_conv_bn_add_relu_yields_only_the_fused_output() -> None:
    graph = captured(Residual("add"), Fusion.conv_bn_relu)
    assert [(quantizer.name, quantizer.readers) for quantizer in graph.activations] == [
        ("input", ("conv.output", "add.output")),
        ("relu.output", ("last.output",)),
    ]


def test_a_second_reader_prevents_fusing() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.last = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.last(self.relu(y)) * y

    assert quantizer_names(Net(), Fusion.conv_bn_relu) == ["input", "conv.output", "relu.output"]
    assert quantizer_names(Net(), Fusion.bn) == ["input", "conv.output", "relu.output", "last.output"]


class ThreeLayers(nn.Module):
    """Operations with a convolution a, one b that may read what a sum reads too, and a last one."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation = operation
        self.a, self.b, self.last = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Any:
        return self.operation(self, x)


A_SUM_READS = {
    # The sum is done on the accumulator of a; its other operand is read on a grid only if it lies on one for others.
    "the input, for no layer": (lambda m, x: m.last(F.relu(m.a(x.softmax(1)) + x)), {"input": ("add",)}),
    "a softmax": (lambda m, x: m.last(F.relu(m.a(x) + x.softmax(1))), {"softmax": None}),
    "a softmax that a layer reads": (
        lambda m, x: (lambda s: m.last(F.relu(m.a(x) + s)) + m.b(s))(x.softmax(1)),
        {"softmax": ("add", "b")},
    ),
    "a softmax that a layer reads in part": (
        lambda m, x: (lambda s: m.last(F.relu(m.a(x) + s)) + m.b(F.max_pool2d(s, 1).flip(3)))(x.softmax(1)),
        {"softmax": ("max_pool2d", "add")},
    ),
    "a softmax that is read in part": (
        lambda m, x: (lambda s: m.last(F.relu(m.a(x) + s)) + F.max_pool2d(s, 1))(x.softmax(1)),
        {"softmax": None},
    ),
    "a softmax that a product reads": (
        lambda m, x: (lambda s: m.last(F.relu(m.a(x) + s)) * s)(x.softmax(1)),
        {"softmax": None},
    ),
    "an average, without a clamp": (lambda m, x: m.last(m.a(x) + F.avg_pool2d(x, 1)), {"avg_pool2d": ("add",)}),
    "an average, which is added to": (
        lambda m, x: m.last(F.relu(F.avg_pool2d(x, 1) + m.a(x))),
        {"avg_pool2d": ("add",), "a": None},
    ),
    "the input, for no layer behind": (lambda m, x: m.a(x) + x, {"input": ("a",), "a": None}),
    "a product of the input": (lambda m, x: m.last(F.relu(m.a(x) + x * x)), {"input": ("a",), "mul": None}),
}


@pytest.mark.parametrize("name", A_SUM_READS)
def test_who_reads_on_its_grid_what_a_sum_reads(name: str) -> None:
    operation, expected = A_SUM_READS[name]
    graph = captured(ThreeLayers(operation), Fusion.conv_bn_relu)
    readers = {q.name.removesuffix(".output"): set(q.readers) for q in graph.activations}
    for tensor, reading in expected.items():
        assert readers.get(tensor) == (reading and {f"{reader}.output" for reader in reading})
    run_on_coarse_grids(graph, random_images(2, 3, 8, 8))


def test_what_a_layer_reads_that_is_repeated_for_every_image() -> None:
    """A token, which is a constant before it is repeated and a tensor with a grid of its own behind."""

    class Token(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.token, self.linear, self.last = parameter(1, 4, 3), nn.Linear(3, 6), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            token = F.relu(self.linear(self.token.expand(x.shape[0], -1, -1)))
            return self.last(torch.cat([token.flatten(1)[:, :5], x.mean((2, 3))], 1))

    x = random_images(3, 3, 8, 8)
    model = Token()
    for fusion, graph in graphs(model, x).items():
        assert "expand.output" in [q.name for q in graph.activations], fusion
        on_grid, _ = run_on_coarse_grids(graph, x)
        assert on_grid["linear.output"]
        torch.testing.assert_close(Network(graph.graph)(x), model(x))


def test_behind_what_leads_only_out_others_are_quantized() -> None:
    graph = captured(ThreeLayers(lambda m, x: (lambda y: (y.relu(), m.last(y)))(m.a(x))), Fusion.none)
    assert [(q.name, q.readers) for q in graph.activations] == [
        ("input", ("a.output",)),
        ("a.output", ("last.output",)),
    ]


def test_whether_what_is_returned_is_made_of_one_tensor() -> None:
    """The input too is a tensor; a layer's output beside it is another."""
    two = captured(ThreeLayers(lambda m, x: m.a(x) * x), Fusion.bn)
    assert [(q.name, q.readers) for q in two.activations] == [
        ("input", ("a.output", "mul.output")),
        ("a.output", ("mul.output",)),
    ]
    one = captured(ThreeLayers(lambda _, x: x.relu() * x), Fusion.bn)
    assert not one.activations


def test_a_weight_knows_the_calls_that_multiply_by_it() -> None:
    for fusion in Fusion:
        graph = captured(ThreeLayers(lambda m, x: m.last(m.a(m.b(m.a(x).relu()).relu()))), fusion)
        assert {q.name: q.layers for q in graph.weights} == {
            "a.weight": ("a.output", "a_1.output"),
            "b.weight": ("b.output",),
            "last.weight": ("last.output",),
        }


def test_the_largest_tensor_of_an_image() -> None:
    """Of float32: (6, 6, 6) behind the first layer, and (2, 4, 4) of the second; or the image itself, (3, 8, 8)."""
    large = captured(nn.Sequential(nn.Conv2d(3, 6, 3), nn.Conv2d(6, 2, 3)), Fusion.bn)
    assert large.graph.largest_bytes_an_image == 4 * 6 * 6 * 6
    small = captured(nn.Conv2d(3, 2, 3), Fusion.bn)
    assert small.graph.largest_bytes_an_image == 4 * 3 * 8 * 8


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
    graph = resnet(fusion)
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

    assert after_clamp(captured(Net(), Fusion.bn)) == {"last_1.output": "relu_1.output"}


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
@pytest.mark.parametrize(
    "tail",
    [nn.Identity(), nn.Flatten(), nn.Sequential(nn.ReLU(), nn.Flatten()), nn.Sequential(nn.MaxPool2d(2), nn.Flatten())],
    ids=["conv", "flatten", "relu", "maxpool"],
)
def test_the_output_is_never_quantized(tail: nn.Module, fusion: Fusion) -> None:
    graph = captured(nn.Sequential(nn.Conv2d(3, 3, 1), tail), fusion)
    assert [quantizer.name for quantizer in graph.activations] == ["input"]
    found = insert_at_quantizers(graph, {"input": torch.zeros_like})(random_images())
    assert torch.equal(found, Network(graph.graph)(torch.zeros(8, 3, 8, 8)))


class Ending(nn.Module):
    """What is done to the logits: alone, together with something else, or before another layer."""

    def __init__(self, ending) -> None:
        super().__init__()
        self.ending = ending
        self.features, self.head, self.last = nn.Conv2d(3, 8, 8), nn.Linear(8, 5), nn.Linear(5, 5)

    def forward(self, x: Tensor) -> Tensor:
        return called(self.ending, self, self.head(F.relu(self.features(x)).flatten(1)))


@pytest.mark.parametrize(
    "ending",
    [
        lambda y: y.softmax(1),
        lambda y: F.log_softmax(y, 1),
        lambda y: y / 2.5,
        lambda y: y * torch.tensor(0.1),
        lambda y: torch.sigmoid(y),
        lambda y: F.relu(y - 1),
        lambda y: y.reshape(-1, 5, 1, 1).softmax(1).squeeze(-1).squeeze(-1),
        lambda y: F.normalize(y),
        lambda y: (y.softmax(1), y.argmax(1)),
        lambda y: {"probabilities": y.softmax(1), "logits": y},
        lambda y: y.softmax(1).log(),
        lambda y: y.clamp(-3, 3).tanh(),
        lambda y: y.max(1)[0],
        lambda y: y[:, 1:].sigmoid(),
    ],
)
def test_what_the_logits_alone_go_through_is_not_quantized(ending) -> None:
    for fusion, graph in graphs(Ending(ending), random_images()).items():
        names = [quantizer.name for quantizer in graph.activations]
        assert not any(name.startswith(("head", "softmax", "div", "sub")) for name in names)
        before = {
            Fusion.none: ["features.output", "relu.output"],
            Fusion.bn: ["features.output", "relu.output"],
            Fusion.conv_bn_relu: ["relu.output"],
        }
        assert names == ["input", *before[fusion]]


def test_logits_that_a_layer_reads_are_quantized() -> None:
    for fusion, graph in graphs(Ending(lambda m, y: m.last(y.softmax(1))), random_images()).items():
        names = [quantizer.name for quantizer in graph.activations]
        assert "softmax.output" in names
        assert ("head.output" in names) is (fusion is Fusion.bn)


def test_an_output_that_is_read_inside_too_leaves_in_float() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            y = self.conv(x)
            return y.flatten(1), self.last(y)

    for fusion in Fusion:
        found = {quantizer.name: quantizer.readers for quantizer in captured(Net(), fusion).activations}
        assert found == {"input": ("conv.output",), "conv.output": ("last.output",)}


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

    names = captured(Net(), fusion).names
    assert len(set(names)) == len(names)
    assert {"relu.output", "relu_1.output"} <= set(names)


class Awkward(nn.Module):
    """Module names that could be mistaken for one another."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.ModuleDict({"b": nn.Conv2d(3, 3, 1)})
        self.a_b, self.inserted, self.last = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.inserted(self.a_b(self.a["b"](x))))


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
def test_each_function_stands_at_its_own_quantizer(fusion: Fusion) -> None:
    graph, passed = captured(Awkward(), fusion), list[str]()

    def note(name: str):
        return lambda x: (passed.append(name), x)[1]

    insert_at_quantizers(graph, {q.name: note(q.name) for q in graph.activations})(torch.randn(1, 3, 8, 8))
    assert passed == [quantizer.name for quantizer in graph.activations]
    assert passed == ["input", "a.b.output", "a_b.output", "inserted.output"]


def test_quantizers_without_a_function_are_left_alone() -> None:
    graph = resnet(Fusion.bn)
    x, network = torch.randn(1, 3, 8, 8), Network(graph.graph)
    with torch.no_grad():
        assert torch.equal(insert_at_quantizers(graph, {})(x), network(x))
        assert torch.equal(insert_at_quantizers(graph, {"input": lambda y: y / 2})(x), network(x / 2))


@pytest.mark.parametrize(
    ("between", "own"),
    [
        (nn.MaxPool2d(2), False),
        (nn.Sequential(nn.MaxPool2d(2), nn.ZeroPad2d(1), nn.ChannelShuffle(3)), False),
        (nn.AvgPool2d(2), True),
        (nn.Hardswish(), True),
        (nn.Softmax(dim=1), True),
        (nn.ConstantPad2d(1, 0.3), True),
    ],
)
def test_operations_that_only_move_values_need_no_quantizer_of_their_own(between: nn.Module, own: bool) -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), between, nn.Conv2d(3, 3, 1))
    assert quantizer_names(model, Fusion.bn) == ["input", "0.output", *["1.output"] * own]


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
    assert quantizer_names(Padded(mode, value), Fusion.bn) == ["input", "conv.output", *["pad.output"] * own]


# -- weights that stay in float --


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(shape))


class Reads(nn.Module):
    """A convolution, then an operation with a weight of its own."""

    def __init__(self, operation, **parts: nn.Module | nn.Parameter) -> None:
        super().__init__()
        self.operation = operation
        self.conv = nn.Conv2d(3, 8, 3)
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, x: Tensor) -> Tensor:
        return called(self.operation, self, F.relu(self.conv(x)).mean(3))  # (n, 8, 6)


FLOAT_WEIGHTS = {
    "LSTM": (
        lambda m, y: m.rnn(y.mT)[0][:, -1],
        {"rnn": nn.LSTM(8, 8, batch_first=True)},
        {"rnn.weight_ih_l0", "rnn.weight_hh_l0"},
    ),
    "GRU": (
        lambda m, y: m.rnn(y.mT)[1][0],
        {"rnn": nn.GRU(8, 4, batch_first=True)},
        {"rnn.weight_ih_l0", "rnn.weight_hh_l0"},
    ),
    "embedding": (lambda m, y: m.table(y.argmax(1)).flatten(1), {"table": nn.Embedding(8, 4)}, {"table.weight"}),
    "positions": (lambda m, y: (y + m.positions).flatten(1), {"positions": parameter(1, 8, 6)}, {"positions"}),
    "positions looked up": (
        lambda m, y: (y.mT + m.table(torch.arange(6))).flatten(1),
        {"table": nn.Embedding(6, 8)},
        {"table.weight"},
    ),
    "weight first": (lambda m, y: (m.weight @ y).flatten(1), {"weight": parameter(4, 8)}, {"weight"}),
    "bilinear": (lambda m, y: m.pairs(y.mean(2), y.amax(2)), {"pairs": nn.Bilinear(8, 8, 4)}, {"pairs.weight"}),
    "einsum over two axes": (
        lambda m, y: torch.einsum("ncl,clk->nk", y, m.weight),
        {"weight": parameter(8, 6, 4)},
        {"weight"},
    ),
    "product with copies": (
        lambda m, y: (y.unsqueeze(1) * m.weight).flatten(1),
        {"weight": parameter(1, 2, 8, 6)},
        {"weight"},
    ),
    "scaled per place": (lambda m, y: (y * m.gain).flatten(1), {"gain": parameter(8, 6)}, {"gain"}),
    "dynamic convolution": (
        lambda m, y: F.conv1d(
            y.reshape(1, -1, 6), (m.experts * y.mean((1, 2))[:, None, None, None]).reshape(-1, 8, 3), groups=y.shape[0]
        ).reshape(y.shape[0], -1),
        {"experts": parameter(1, 4, 8, 3)},
        {"experts"},
    ),
}


@pytest.mark.parametrize("name", FLOAT_WEIGHTS)
def test_weights_that_stay_in_float_are_named(name: str) -> None:
    operation, parts, expected = FLOAT_WEIGHTS[name]
    model = Reads(operation, **parts).eval()
    for graph in graphs(model, random_images()).values():
        assert set(graph.float_weights) == expected
        assert all("no integer form" in reason for reason in graph.float_weights.values())
        assert not expected & set(graph.names)


def test_nothing_is_named_where_all_weights_are_quantized() -> None:
    for graph in map(resnet, Fusion):
        assert not graph.float_weights


class Tied(nn.Module):
    """One parameter for two layers, as (out, in) and as (in, out), and for a product that is no layer."""

    def __init__(self, operation) -> None:
        super().__init__()
        self.operation, self.conv, self.weight = operation, nn.Conv2d(3, 8, 8), parameter(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        return called(self.operation, self, F.relu(self.conv(x)).flatten(1))


@needs_int8
@pytest.mark.parametrize(
    "operation",
    [
        lambda m, y: F.linear(F.relu(F.linear(y, m.weight)), m.weight),
        lambda m, y: F.relu(y @ m.weight) @ m.weight.t(),
        lambda m, y: F.linear(y, m.weight) * m.weight[0],
        lambda m, y: F.linear(y, m.weight) + (y.unsqueeze(1) * m.weight).sum(1),
        lambda m, y: F.linear(F.linear(y, m.weight).softmax(1).unsqueeze(1) * m.weight, m.weight).sum(1),
    ],
)
def test_a_weight_with_several_readers(operation) -> None:
    """A layer has it on its grid, and what is no layer in float, in every engine."""
    torch.manual_seed(0)
    for graph in held_against_the_model(Tied(operation), random_images()).values():
        in_float = [name for name in graph.graph.constants if name not in graph.names]
        for node in graph.graph.nodes:
            if not isinstance(node.operation, Weighted):
                assert all(name in in_float for name in node.inputs if name in graph.graph.constants)


def test_what_a_message_calls_an_operation() -> None:
    for function, name in ((torch.ops.aten.softmax.int, "softmax"), (math.hypot, "hypot")):
        assert kind_of(Other(Call(function, ()))) == name
    assert kind_of(Move(Call(torch.ops.aten.flip.default, ()))) == "Move"
