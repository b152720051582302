"""In-place operations, aliases, training-only layers, and what cannot be traced."""

import copy

import pytest
import torch
import torch.nn.functional as F
from networks import randomize_batch_norms
from torch import Tensor, nn

from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, insert_at_points, quantizable
from quant_sweep.graph.trace import trace


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)


class ModuleRead(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.last(self.relu(y)) + y  # y is overwritten by now


class ModuleCalledTwice(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv(x)) - 0.5
        return self.last(self.relu(y)) + y


class Method(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        y.relu_()
        y.mul_(2).clamp_(max=1.5)
        return self.last(y) + y


class Function(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        z = F.relu(y, inplace=True)
        return self.last(y) + y * z


class Underscored(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        torch.relu_(y)
        return self.last(y) + y


class Augmented(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        z = y
        y += x
        y -= 0.25
        y *= 2
        y /= x.abs() + 1
        return self.last(y) + z  # one tensor under two names


class OfTheInput(Net):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return self.last(self.relu(x)) + x


class BehindAnAlias(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.dropout(y)  # in evaluation mode y itself
        return self.last(self.relu(z)) + y


class BeforeAndAfter(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        before = self.last(y)
        return before + self.last(self.relu(input=y))


NETS = (
    ModuleRead, ModuleCalledTwice, Method, Function, Underscored, Augmented, OfTheInput, BehindAnAlias, BeforeAndAfter
)  # fmt: skip


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
@pytest.mark.parametrize("net", NETS)
@torch.no_grad()
def test_in_place_operations_keep_the_result(net: type[Net], fusion: Fusion) -> None:
    torch.manual_seed(0)
    model, x = randomize_batch_norms(net()), torch.randn(2, 3, 8, 8)
    graph = quantizable(model, fusion)
    expected = model(x.clone())
    torch.testing.assert_close(graph.module(x.clone()), expected)

    # Nor may a tensor that was recorded at a point change afterwards.
    recorders = {point.name: _Remember() for point in graph.activations}
    torch.testing.assert_close(insert_at_points(graph, recorders)(x.clone()), expected)
    assert all(torch.equal(recorder.seen, recorder.copy) for recorder in recorders.values())


class _Remember(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        self.seen, self.copy = x, x.clone()
        return x


@pytest.mark.parametrize("net", NETS)
def test_nothing_is_overwritten(net: type[Net]) -> None:
    x = torch.randn(2, 3, 8, 8)
    before = x.clone()
    trace(net())(x)
    assert torch.equal(x, before)


def test_training_only_layers_are_gone() -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1), nn.Dropout2d(), nn.Sequential(nn.Identity(), nn.Dropout()))
    assert [node.op for node in trace(model).graph.nodes] == ["placeholder", "call_module", "output"]


class AlwaysDrops(nn.Module):
    def __init__(self, training: bool) -> None:
        super().__init__()
        self.always = training

    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(x, 0.5, training=self.always)


@pytest.mark.parametrize(("always", "nodes"), [(True, 3), (False, 2)])
def test_dropout_that_acts_in_evaluation_too_stays(always: bool, nodes: int) -> None:
    assert len(trace(AlwaysDrops(always)).graph.nodes) == nodes


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Holder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 3, 1), Undecided())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


def test_control_flow_on_values_names_the_module_and_the_way_out() -> None:
    with pytest.raises(InputError, match=r"blocks\.1 \(Undecided\) cannot be traced") as error:
        quantizable(Holder(), Fusion.none)
    assert "rewrite this forward" in str(error.value)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match=r"model=Undecided: cannot be traced"):
        quantizable(Undecided(), Fusion.none)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


def test_two_inputs_are_refused() -> None:
    with pytest.raises(InputError, match="has 2 inputs"):
        trace(TwoInputs())


class Functional(nn.Module):
    def __init__(self, linear: bool) -> None:
        super().__init__()
        self.linear = linear
        self.weight = nn.Parameter(torch.randn(3, 3) if linear else torch.randn(3, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight) if self.linear else F.conv2d(x, self.weight)


@pytest.mark.parametrize(("linear", "name"), [(False, "conv2d"), (True, "linear")])
def test_functional_layers_are_refused(linear: bool, name: str) -> None:
    with pytest.raises(InputError, match=rf"{name} calls .* as a function; use a module"):
        quantizable(Functional(linear), Fusion.none)


def test_the_model_is_copied() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.ReLU(inplace=True)).train()
    before = copy.deepcopy(model.state_dict())
    traced = trace(model)
    for parameter in traced.parameters():
        parameter.data.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert model[1].inplace
