"""Layers that share one parameter: each has a weight, a name and a grid of its own."""

import pytest
import torch
import torch.nn.functional as F
from exact_layers import in_codes
from small_networks import SlowTwin, images, shaken
from torch import Tensor, nn
from whole_codes import codes_and_outputs

from quant_sweep.arithmetic.affine import fake_quantize, qparams_from_range
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines import Engine, Int8, Integer, Simulate
from quant_sweep.graph import Fusion, QuantGraph, capture
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs

pytestmark = pytest.mark.usefixtures("exact_int8")


class Tied(nn.Module):
    """Two convolutions on one parameter, one of them with a BatchNorm behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.a, self.b = (nn.Conv2d(6, 6, 3, padding=1, bias=False) for _ in range(2))
        self.norm, self.head = nn.BatchNorm2d(6), nn.Linear(6, 4)
        self.b.weight = self.a.weight

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.a(F.relu(self.stem(x))))
        return self.head(F.relu(self.norm(self.b(x))).mean((2, 3)))


def tied() -> Tied:
    torch.manual_seed(0)
    return shaken(Tied())  # type: ignore[return-value]


def captured(fusion: Fusion) -> QuantGraph:
    return capture(tied(), images(4), fusion)


@pytest.mark.parametrize("fusion", Fusion)
def test_each_layer_has_a_weight_of_its_own(fusion: Fusion) -> None:
    graph = captured(fusion)
    assert {q.name: q.layers for q in graph.weights} == {
        f"{layer}.weight": (f"{layer}.output",) for layer in ("stem", "a", "b", "head")
    }
    weight = tied().a.weight.detach()
    assert torch.equal(graph.graph.constants["a.weight"], weight)
    # The BatchNorm is folded into one of them only.
    assert torch.equal(graph.graph.constants["b.weight"], weight) == (fusion is Fusion.none)


@pytest.mark.parametrize("engine", [Simulate, Int8, Integer], ids=lambda engine: engine.__name__)
@pytest.mark.parametrize(("a", "b"), [(3, 7), (6, 2)])
@pytest.mark.parametrize("fusion", [Fusion.bn, Fusion.conv_bn_relu])
@torch.no_grad()
def test_different_widths(fusion: Fusion, a: int, b: int, engine: type[Engine]) -> None:
    graph, batch = captured(fusion), images(4, seed=1)
    specs = assign_specs(graph, AFFINE, BitWidths(5, 8, {"a.weight": a, "b.weight": b}))
    qparams = choose_qparams(calibrate(graph, [images(4)]), specs, MinMax(), MinMax())
    assert (qparams["a.weight"].spec.bits, qparams["b.weight"].spec.bits) == (a, b)
    codes, outputs = codes_and_outputs(engine(), graph, qparams, batch)

    # By hand: what each layer reads, from the engine's codes, and its weight on its own grid.
    model, norm = tied(), tied().norm
    factor = norm.weight * torch.rsqrt(norm.running_var + norm.eps)
    weights = {"a": model.a.weight, "b": model.b.weight * factor[:, None, None, None]}
    biases = {"a": torch.zeros(6), "b": norm.bias - factor * norm.running_mean}
    read = {"a": "relu.output", "b": "relu_1.output"}
    written = (
        {"a": "relu_1.output", "b": "relu_2.output"}
        if fusion is Fusion.conv_bn_relu
        else {"a": "a.output", "b": "b.output"}
    )
    for layer, weight in weights.items():
        rows = weight.flatten(1)
        grid = qparams_from_range(rows.amin(1), rows.amax(1), specs[f"{layer}.weight"])
        x = codes[read[layer]] - qparams[read[layer]].zero_point
        real = F.conv2d(
            x.double() * qparams[read[layer]].scale.double(), fake_quantize(weight, grid).double(), padding=1
        )
        real = real + biases[layer].double()[:, None, None]
        if fusion is Fusion.conv_bn_relu:
            real = real.clamp(min=0)
        found = codes[written[layer]]
        assert float((found - in_codes(real, qparams[written[layer]])).abs().max()) <= 0.5 + 2.0**-6, layer
    slow = SlowTwin(graph, qparams).run(batch)
    assert float((outputs - slow).norm() / slow.norm()) < 0.05
