"""Small networks with every kind of layer, on grids, and where recovered ones lie."""

import torch
import torch.nn.functional as F
from small_networks import shaken
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.calibration.one_pass import Calibration, calibrate, choose_qparams
from quant_sweep.graph import Fusion, QuantGraph, capture
from quant_sweep.observers import MSE, MinMax, Observer
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, assign_specs
from quant_sweep.recovery import OnGrids

LAYERS = {
    "plain": lambda: nn.Conv2d(3, 4, 3, padding=1),
    "without bias": lambda: nn.Conv2d(3, 4, 3, bias=False),
    "grouped": lambda: nn.Conv2d(4, 6, 3, groups=2, padding=1),
    "depthwise": lambda: nn.Conv2d(4, 8, 3, groups=4),
    "strided": lambda: nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 0)),
    "dilated": lambda: nn.Conv2d(3, 4, 3, dilation=2, padding=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2),
    "1-d": lambda: nn.Conv1d(3, 4, 3, stride=2),
    "3-d": lambda: nn.Conv3d(2, 3, 2),
    "linear": lambda: nn.Linear(6, 4),
    "linear of sequences": lambda: nn.Linear(6, 4),
}


def inputs_of(name: str, count: int, seed: int = 0) -> Tensor:
    """Correlated ones, with a mean, as layers read them."""
    layer = LAYERS[name]()
    shape = {"linear": (6,), "linear of sequences": (5, 6)}.get(name)
    if shape is None:
        shape = (layer.in_channels, *(6, 5, 4)[: layer.weight.dim() - 2])
    generator = torch.Generator().manual_seed(seed)
    common = torch.randn(count, *[1] * len(shape), generator=generator)
    return torch.randn(count, *shape, generator=generator) + common + 0.3


class Several(nn.Module):
    """Kinds of layers behind each other, with two sums, one of which waits for a layer on the other branch."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.depthwise = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=6)
        self.norm, self.grouped = nn.BatchNorm2d(6), nn.Conv2d(6, 8, 3, stride=2, padding=1, groups=2)
        self.shortcut, self.dilated = (
            nn.Conv2d(6, 8, 1, stride=2, bias=False),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2),
        )
        self.up, self.line, self.head = nn.ConvTranspose2d(8, 4, 2, stride=2), nn.Conv1d(4, 5, 3), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        x = F.relu(self.norm(self.depthwise(x)) + x)
        x = F.relu(self.grouped(x) + self.shortcut(x))
        x = F.relu6(self.up(self.dilated(x)))
        return self.head(F.relu(self.line(x.flatten(2))).mean(2))


def several() -> nn.Module:
    torch.manual_seed(0)
    return shaken(Several())


def on_grids(
    model: nn.Module, batch: Tensor, bits: int, fusion: Fusion = Fusion.conv_bn_relu, scheme: Scheme = AFFINE
) -> tuple[QuantGraph, OnGrids]:
    """The float network, and the same as calibration leaves it."""
    graph = capture(model, batch[:2], fusion)
    return graph, with_grids(calibrate(graph, [batch]), bits, scheme, MSE())


def with_grids(calibration: Calibration, bits: int, scheme: Scheme, observer: Observer) -> OnGrids:
    specs = assign_specs(calibration.graph, scheme, BitWidths(bits, bits, {}))
    return OnGrids(calibration.graph, choose_qparams(calibration, specs, observer, MinMax()))


def rounded_weight(quantized: OnGrids, name: str) -> Tensor:
    """The weight that counts."""
    return fake_quantize(quantized.graph.graph.constants[name], quantized.qparams[name])
