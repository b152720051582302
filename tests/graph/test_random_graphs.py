"""Random programs of convolutions, BatchNorms, activations, adds, cats and pools, some of them in place or shared."""

from typing import NamedTuple

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import graphs, randomize_batch_norms, run_on_coarse_grids
from torch import Tensor, nn

from quant_sweep.graph import Network, insert_at_quantizers

CHANNELS = 4


class Step(NamedTuple):
    """One operation on earlier values, counted from the latest."""

    operation: str
    one: int
    other: int


OPERATIONS = (
    "conv", "conv", "conv3", "bn", "bn", "bn", "relu", "relu_inplace", "shared_relu", "relu6", "hardswish",
    "method_relu_", "add", "add", "iadd", "sub", "number", "cat", "max_pool", "avg_pool", "dropout",
    "shared_conv", "chunk", "chunk_written", "view_written", "slice_written",
)  # fmt: skip
steps = st.builds(Step, st.sampled_from(OPERATIONS), st.sampled_from([0, 0, 0, 1, 2]), st.integers(0, 3))


def _module(operation: str) -> nn.Module:
    return {
        "conv": lambda: nn.Conv2d(CHANNELS, CHANNELS, 1),
        "conv3": lambda: nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1, bias=False),
        "bn": lambda: nn.BatchNorm2d(CHANNELS),
        "relu": nn.ReLU,
        "relu_inplace": lambda: nn.ReLU(inplace=True),
        "relu6": lambda: nn.ReLU6(inplace=True),
        "hardswish": nn.Hardswish,
        "cat": lambda: nn.Conv2d(2 * CHANNELS, CHANNELS, 1),
        "max_pool": lambda: nn.MaxPool2d(3, 1, 1),
        "avg_pool": lambda: nn.AvgPool2d(3, 1, 1),
        "dropout": nn.Dropout,
    }.get(operation, nn.Identity)()


class Program(nn.Module):
    def __init__(self, program: list[Step]) -> None:
        super().__init__()
        self.program = program
        self.parts = nn.ModuleList(_module(step.operation) for step in program)
        self.relu, self.conv = nn.ReLU(inplace=True), nn.Conv2d(CHANNELS, CHANNELS, 1)
        self.last = nn.Conv2d(CHANNELS, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        values = [x]
        for part, (operation, one, other) in zip(self.parts, self.program, strict=True):
            a, b = values[max(-1 - one, -len(values))], values[max(-1 - other, -len(values))]
            if operation == "add":
                value = a + b
            elif operation == "sub":
                value = a - b
            elif operation == "iadd":
                value = a
                value += b
            elif operation == "number":
                value = a + 0.5
            elif operation == "method_relu_":
                value = a.relu_()
            elif operation == "shared_relu":
                value = self.relu(a)
            elif operation == "shared_conv":
                value = self.conv(a)
            elif operation == "cat":
                value = part(torch.cat([a, b], dim=1))
            elif operation == "chunk":
                first, second = torch.chunk(a, 2, dim=1)
                value = torch.cat([second, first], dim=1)
            elif operation == "chunk_written":
                value = a.clone()
                value.chunk(2, 1)[1].mul_(0.5)
            elif operation == "view_written":
                a.view(a.size(0), -1).clamp_(-1, 1)
                value = a
            elif operation == "slice_written":
                a[:, 1:3] = b[:, :2].clone()
                value = a + 0.0
            else:
                value = part(a)
            values.append(value)
        return self.last(values[-1])


@settings(max_examples=8)
@given(st.lists(steps, min_size=1, max_size=10), st.integers(0, 2**31))
@torch.no_grad()
def test_random_graphs(program: list[Step], seed: int) -> None:
    torch.manual_seed(seed)
    model, x = randomize_batch_norms(Program(program), seed), torch.randn(2, CHANNELS, 6, 6)
    expected = model(x.clone())
    tolerance = 1e-5 * max(1.0, expected.abs().max().item())
    for graph in graphs(model, x).values():
        found = Network(graph.graph)(x.clone())
        torch.testing.assert_close(found, expected, rtol=0, atol=tolerance)
        passing = insert_at_quantizers(graph, {q.name: lambda y: y for q in graph.activations})
        assert torch.equal(passing(x.clone()), found)
        on_grid, _ = run_on_coarse_grids(graph, x.clone())
        assert all(on_grid.values())
        assert len(set(graph.names)) == len(graph.names)
