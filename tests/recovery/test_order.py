"""The order of execution."""

import pytest
import torch
import torch.nn.functional as F
from layer_networks import on_grids, several
from small_networks import images
from torch import Tensor, nn

from quant_sweep.graph import Graph
from quant_sweep.graph.operations import Weighted
from quant_sweep.graph.quantizers import other_operand
from quant_sweep.recovery.order import added_to, in_order


class Sums(nn.Module):
    """A sum of layers, and of branches of several."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.a, self.b, self.c = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.whole = nn.Conv2d(3, 3, 16)

    def forward(self, x: Tensor) -> Tensor:
        match self.kind:
            case "a layer plus a branch of several":
                x = self.a(x) + torch.sigmoid(F.relu(self.c(F.relu(self.b(x)))))
            case "a branch of several plus a layer":
                x, y = F.relu(x), self.a(x)
                x = F.relu(self.c(F.relu(self.b(x)))).neg() + y
            case "a ReLU plus a layer":
                x = F.relu(self.a(x)) + self.b(x)
            case "two layers":
                x = self.a(x) + self.c(F.relu(self.b(x)))
            case "a layer that is added to every place":
                x = self.whole(x) + F.relu(x)
            case "a layer that is added to itself":
                x = self.a(x)
                x = x + x
        return x.mean((2, 3))


def network(kind: str) -> Graph:
    torch.manual_seed(0)
    model = several() if kind == "several" else Sums(kind).eval()
    return on_grids(model, images(8), bits=8)[0].graph


@pytest.mark.parametrize(
    ("kind", "layers"),
    [
        ("several", 3),
        ("a layer plus a branch of several", 1),
        ("a branch of several plus a layer", 1),
        ("a ReLU plus a layer", 1),
        ("two layers", 2),
        ("a layer that is added to every place", 0),
        ("a layer that is added to itself", 0),
    ],
)
def test_what_is_added_to_a_layer_comes_before_it(kind: str, layers: int) -> None:
    """Of two layers that are added up, before one of them. `layers`: how many are added to something."""
    graph = network(kind)
    names = [node.name for node in in_order(graph)]
    assert sorted(names) == sorted(graph.node)
    for node in graph.nodes:
        for read in graph.computed_inputs(node):
            assert read == "input" or names.index(read) < names.index(node.name)

    added = {
        node.name: add
        for node in graph.nodes
        if isinstance(node.operation, Weighted) and (add := added_to(graph, node))
    }
    assert len(added) == layers
    for name, add in added.items():
        other = other_operand(add, name)
        first, _ = sorted((name, other), key=names.index)
        assert first == other or other in added
