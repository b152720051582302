"""What the graph tests share: random BatchNorm statistics, a rounding that leaves a visible mark, and one check of all
that a captured network promises."""

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils import _pytree as pytree

from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.engines import Int8, Simulate
from quant_sweep.graph import Fusion, Network, QuantGraph, capture_float, insert_at_quantizers, with_quantizers
from quant_sweep.graph.interpret import relative_difference
from quant_sweep.graph.operations import BatchNorm, ChannelAffine, Operation, Weighted
from quant_sweep.observers import MinMax
from quant_sweep.quantization.quantize import quantize


def randomize_batch_norms(model: nn.Module, seed: int = 0) -> nn.Module:
    """In evaluation mode; fresh statistics (0 and 1) would make folding too easy."""
    generator = torch.Generator().manual_seed(seed)
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.running_mean is not None:
            module.running_mean.normal_(0, 0.3, generator=generator)
            module.running_var.uniform_(0.5, 2, generator=generator)
            if module.affine:
                module.weight.data.uniform_(0.5, 1.5, generator=generator)
                module.bias.data.normal_(0, 0.3, generator=generator)
    return model.eval()


WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def called(operation: Callable[..., Any], module: nn.Module, x: Tensor) -> Any:
    """operation(x), or operation(module, x) where it takes two."""
    return operation(x) if len(inspect.signature(operation).parameters) == 1 else operation(module, x)


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape or (8, 3, 8, 8), generator=torch.Generator().manual_seed(seed))


def graphs(model: nn.Module, example: Tensor) -> dict[Fusion, QuantGraph]:
    """Captured once, with the quantizers of every fusion."""
    captured = capture_float(model, example)
    return {fusion: with_quantizers(captured, fusion) for fusion in Fusion}


def quantizer_names(model: nn.Module, fusion: Fusion, example: Tensor | None = None) -> list[str]:
    """Of the activations."""
    captured = capture_float(model, random_images(2, 3, 8, 8) if example is None else example)
    return [quantizer.name for quantizer in with_quantizers(captured, fusion).activations]


def operations(graph: QuantGraph, *kinds: type[Operation]) -> list[str]:
    """Names of the nodes that are of some kinds."""
    return [node.name for node in graph.graph.nodes if isinstance(node.operation, kinds)]


def norms(graph: QuantGraph) -> list[str]:
    """Names of the BatchNorms, and of what is written in their place, that are not folded."""
    return operations(graph, BatchNorm, ChannelAffine)


@torch.no_grad()
def held_against_the_model(
    model: nn.Module, x: Tensor, *, bits: Sequence[int] = (16, 7), tolerance: float = 1e-5
) -> dict[Fusion, QuantGraph]:
    """What every captured network promises: the float graph equals the model in all fusions, the simulation at many
    bits too, and integer kernels equal the simulation.

    Returns:
        The graphs, for further questions.
    """
    model.eval()
    expected = model(x.clone())
    found = graphs(model, x)
    for fusion, graph in found.items():
        assert relative_difference(Network(graph.graph)(x.clone()), expected) < tolerance, fusion
        if fusion is Fusion.bn:
            continue  # quantized where engines are tested
        calibration = calibrate(graph, [x.float()])
        high, low = (quantize(calibration, bits=b, observer=MinMax(), engine=Simulate()).network for b in bits)
        assert relative_difference(high(x.float()), expected) < max(2e-3, 100 * tolerance), fusion
        kernels = quantize(calibration, bits=bits[1], observer=MinMax(), engine=Int8()).network
        assert relative_difference(kernels(x.float()), low(x.float())) < 0.03, fusion
    return found


def coarse(x: Tensor) -> Tensor:
    """Three significant bits: a grid of any scale, on which 0 and powers of two lie. Sums and means leave it."""
    mantissa, exponent = torch.frexp(x)
    return torch.ldexp(torch.round(mantissa * 8) / 8, exponent)


def is_coarse(x: Tensor) -> bool:
    return torch.equal(coarse(x), x)


class Watched(nn.Module):
    """Runs a graph node by node and shows `see` what each node reads.

    Tensors at quantizers are replaced by what `functions` make of them, for the quantizers' readers only: the slow twin
    of `insert_at_quantizers`.
    """

    def __init__(self, graph: QuantGraph, functions: dict[str, Any]) -> None:
        super().__init__()
        self.graph, self.functions = graph, functions
        self.readers = {q.name: q.readers for q in graph.activations}
        self.read: dict[str, list[Any]] = {}

    def forward(self, x: Tensor) -> Any:
        graph = self.graph.graph
        values: dict[str, Any] = {**graph.constants, "input": x}
        for node in graph.nodes:
            self.read[node.name] = [
                self.functions[name](values[name])
                if name in self.functions and node.name in self.readers[name]
                else values[name]
                for name in node.inputs
            ]
            values[node.name] = node.operation(*self.read[node.name])
        return pytree.tree_unflatten([values[name] for name in graph.outputs], graph.structure)


@torch.no_grad()
def run_on_coarse_grids(graph: QuantGraph, x: Tensor) -> tuple[dict[str, bool], Any]:
    """Run with a coarse grid at every quantizer.

    Returns:
        For each convolution and linear layer, by the name of its output, whether its input lay on the grid; the output.
    """
    functions = {quantizer.name: coarse for quantizer in graph.activations}
    watched = Watched(graph, functions)
    output = watched(x)
    inserted = insert_at_quantizers(graph, functions)(x)
    pairs = zip(pytree.tree_leaves(inserted), pytree.tree_leaves(output), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)
    layers = (node.name for node in graph.graph.nodes if isinstance(node.operation, Weighted))
    return {name: is_coarse(watched.read[name][0]) for name in layers}, output
