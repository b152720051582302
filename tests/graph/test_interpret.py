"""Running again with other functions and constants: the same as building that network, and only what changes is
computed."""

from dataclasses import replace

import pytest
import torch
from networks import random_images
from small_networks import captured, cifar_resnet20
from torch import Tensor, nn

from quant_sweep.graph import INPUT, Fusion, Graph, Network, QuantGraph, capture, insert_at_quantizers
from quant_sweep.graph.interpret import relative_difference


def halve(x: Tensor) -> Tensor:
    return x / 2


def passed_on(x: Tensor) -> Tensor:
    return x


@pytest.fixture(scope="module", params=Fusion, ids=lambda fusion: fusion.name)
def graph(request: pytest.FixtureRequest) -> QuantGraph:
    return captured(cifar_resnet20, request.param)


@torch.no_grad()
def test_like_a_network_built_so(graph: QuantGraph) -> None:
    x = random_images(2, 3, 8, 8)
    names = [q.name for q in graph.activations]
    network = insert_at_quantizers(graph, dict.fromkeys(names, passed_on))
    values = network.values(x, lambda _: True)
    assert torch.equal(network.returned(values), Network(graph.graph)(x))
    for changed in ([], *([name] for name in names[::5]), names):
        built = insert_at_quantizers(graph, {name: halve if name in changed else passed_on for name in names})
        assert torch.equal(network.again(values, dict.fromkeys(changed, halve), {}), built(x))
    assert torch.equal(network.returned(values), network(x)), "the values are as they were"


@torch.no_grad()
def test_other_constants(graph: QuantGraph) -> None:
    x = random_images(2, 3, 8, 8)
    network = Network(graph.graph)
    values = network.values(x, lambda _: True)
    for weight in [q.name for q in graph.weights][::7]:
        constants = {**graph.graph.constants, weight: graph.graph.constants[weight] / 2}
        kept = graph.graph
        built = Network(Graph(kept.nodes, constants, kept.outputs, kept.structure, kept.input_shape))
        again = network.again(values, {}, {weight: constants[weight]})
        assert torch.equal(again, built(x))
        assert not torch.equal(again, network(x))


class Branches(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 1) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return self.c(self.a(x) + self.b(x))


def test_a_description_tells_what_reads_what() -> None:
    """Stored results are found by it."""
    graph = captured(cifar_resnet20, Fusion.bn).graph
    said = {graph.described()}
    for i, node in enumerate(graph.nodes):
        other = replace(node, inputs=("input", *node.inputs[1:]) if node.inputs[0] != "input" else ("relu.output",))
        said.add(replace(graph, nodes=(*graph.nodes[:i], other, *graph.nodes[i + 1 :])).described())
    assert len(said) == 1 + len(graph.nodes)
    assert replace(graph, outputs=("relu.output",)).described() not in said


@torch.no_grad()
def test_only_what_changes_is_computed() -> None:
    graph, x = capture(Branches(), random_images(), Fusion.bn), random_images()
    calls: list[str] = []

    def counted(name: str):
        return lambda y: (calls.append(name), y)[1]

    network = insert_at_quantizers(graph, {q.name: counted(q.name) for q in graph.activations})
    values = network.values(x, lambda _: True)
    assert calls == ["input", "a.output", "b.output", "add.output"]
    calls.clear()
    network.again(values, {"b.output": halve}, {})
    assert calls == ["add.output"]
    calls.clear()
    network.again(values, {}, {"c.weight": graph.graph.constants["c.weight"]})
    assert calls == []


@torch.no_grad()
def test_values_that_are_kept(graph: QuantGraph) -> None:
    """All others are freed when their last reader has run."""
    kept = Network(graph.graph).values(random_images(2, 3, 8, 8), lambda name: name == "relu.output")
    assert {INPUT, "relu.output", *graph.graph.outputs} - set(kept) in (set(), {INPUT})
    assert not {"conv1.output", "layer1.0.relu1.output"} & set(kept)


def test_constants_are_buffers(graph: QuantGraph) -> None:
    network = Network(graph.graph).to(torch.device("meta"))
    assert {buffer.device.type for buffer in network.buffers()} == {"meta"}
    assert len(list(network.buffers())) == len(graph.graph.constants)
    assert all(value.device.type == "cpu" for value in graph.graph.constants.values())


@pytest.mark.parametrize(
    ("found", "expected", "difference"),
    [
        (torch.tensor([3.0, 4.0]), torch.tensor([3.0, 4.0]), 0.0),
        (torch.tensor([3.0, 9.0]), torch.tensor([3.0, 4.0]), 1.0),
        (torch.zeros(2), torch.zeros(2), 0.0),
        (torch.ones(2), torch.zeros(2), float("inf")),
        (torch.ones(2), torch.ones(1, 2), float("inf")),
        ((torch.ones(2),), (torch.ones(2), torch.ones(2)), float("inf")),
        ({"a": torch.ones(2), "b": torch.ones(2) * 2}, {"a": torch.ones(2), "b": torch.ones(2)}, 1.0),
    ],
)
def test_relative_difference(found: object, expected: object, difference: float) -> None:
    assert relative_difference(found, expected) == difference


def test_nan_is_no_agreement() -> None:
    assert not relative_difference(torch.tensor([float("nan")]), torch.ones(1)) <= 1e9
