"""Small networks with everything that quantization meets, and the slow obvious way to quantize them."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import cache, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import INPUT, Fusion, Graph, QuantGraph, capture_float, with_quantizers
from quant_sweep.graph.capture import Captured
from quant_sweep.graph.operations import Operation
from quant_sweep.models import resnet20
from quant_sweep.models.cifar_resnet import CifarResNet


def same_weights(a: nn.Module, b: nn.Module) -> bool:
    """Whether two networks have the same state, bit for bit."""
    one, other = a.state_dict(), b.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


class Tiny(nn.Module):
    """A residual block, max-pooling, average pooling and a linear layer, with every fusion to be made."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv2, self.bn2 = nn.Conv2d(6, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.relu, self.pool = nn.ReLU(inplace=True), nn.MaxPool2d(2)
        self.linear = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = F.relu(self.bn2(self.conv2(x)) + x)
        return self.linear(F.adaptive_avg_pool2d(self.pool(x), 1).flatten(1))


def tiny(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return shaken(Tiny())


def cifar_resnet20(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return shaken(resnet20(num_classes=10, in_channels=3))


def cifar_resnet8(seed: int = 0) -> nn.Module:
    """A block of each kind that ResNet-20 has."""
    torch.manual_seed(seed)
    return shaken(CifarResNet(1, num_classes=10, in_channels=3))


def shaken(model: nn.Module) -> nn.Module:
    """In evaluation mode, BatchNorm with statistics as a trained one has them, not 0 and 1."""
    for module in model.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean, std=0.2)
            nn.init.uniform_(module.running_var, 0.5, 2.0)
            if module.affine:
                nn.init.uniform_(module.weight, 0.5, 1.5)
                nn.init.normal_(module.bias, std=0.2)
    return model.eval()


def images(count: int, seed: int = 0, size: int = 16) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(seed))


@cache
def _captured_float(make: Callable[[], nn.Module], size: int) -> Captured:
    return capture_float(make(), images(2, size=size))


def captured(make: Callable[[], nn.Module], fusion: Fusion, size: int = 16) -> QuantGraph:
    """The graph of a network for images of 3 channels, exported once for all tests of a process: that is what costs.

    Its constants are the caller's own.
    """
    found = _captured_float(make, size)
    constants = {name: value.clone() for name, value in found.graph.constants.items()}
    return with_quantizers(replace(found, graph=replace(found.graph, constants=constants)), fusion)


@dataclass(frozen=True)
class _Watched(Operation):
    """Shows what an operation reads."""

    operation: Operation
    show: Callable[[tuple[Any, ...]], None]

    def __call__(self, *inputs: Any) -> Any:
        self.show(inputs)
        return self.operation(*inputs)


def watched(graph: Graph, names: Collection[str], show: Callable[[str, tuple[Any, ...]], None]) -> Graph:
    """The same graph, which shows what some of its nodes read, with their names, whenever they compute."""
    nodes = (
        replace(node, operation=_Watched(node.operation, partial(show, node.name))) if node.name in names else node
        for node in graph.nodes
    )
    return replace(graph, nodes=tuple(nodes))


class SlowTwin:
    """Runs a graph node by node; a reader of a quantizer sees what `affine.fake_quantize` makes of the tensor.

    Attributes:
        values: what every node made of the last images, by name, before any quantizer.
    """

    def __init__(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> None:
        self.graph = graph.graph
        self.constants = {
            name: fake_quantize(value, qparams[name])
            if name in {q.name for q in graph.weights} & set(qparams)
            else value
            for name, value in graph.graph.constants.items()
        }
        on_grids = [q for q in graph.activations if q.name in qparams]
        self.grids = {(q.name, reader): qparams[q.name] for q in on_grids for reader in q.readers}
        self.values: dict[str, Any] = {}

    def run(self, x: Tensor) -> Any:
        self.values = {INPUT: x, **self.constants}
        for node in self.graph.nodes:
            self.values[node.name] = node.operation(*[self._read(name, node.name) for name in node.inputs])
        return pytree.tree_unflatten([self.values[name] for name in self.graph.outputs], self.graph.structure)

    def _read(self, name: str, reader: str) -> Any:
        grid = self.grids.get((name, reader))
        return self.values[name] if grid is None else fake_quantize(self.values[name], grid)
