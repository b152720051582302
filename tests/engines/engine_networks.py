"""Networks in which every kind of step occurs, and grids for them."""

import functools
import random
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from short_networks import short_network
from small_networks import images, shaken, tiny
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.graph import QuantGraph
from quant_sweep.models import resnet20
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, assign_specs

SYMMETRIC = Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)
SCHEMES = {"affine": AFFINE, "symmetric": SYMMETRIC}
CHECKPOINT = Path(__file__).parents[3] / "shared" / "checkpoints" / "resnet20-12fca82f.th"


class Residuals(nn.Module):
    """Residuals that are read again, that are the layer's own input, that are broadcast, that no layer takes."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.a, self.b, self.c, self.d = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))
        self.gate, self.head = nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.stem(x))
        y = self.a(F.relu(self.b(x))) + x  # without ReLU; x is read again
        z = F.relu(self.c(x) + x)  # the layer's own input
        w = F.relu6(self.d(z) + self.gate(F.adaptive_avg_pool2d(z, 1)))  # broadcast
        part = z[:, :1]  # shares its memory with a residual that nobody else reads any more
        z = F.relu(self.c(y) + z)
        return self.head((F.relu(y + w) + z + part).mean((2, 3)))


class Moves(nn.Module):
    """Operations that only move or compare codes, and those that almost do."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.same = nn.Conv2d(3, 8, 5, padding=2), nn.Conv2d(8, 8, 4, padding="same")
        self.wide, self.deep = nn.Conv2d(32, 8, 3, padding=1, padding_mode="reflect"), nn.Conv2d(16, 4, 3, groups=4)
        self.pool, self.pad = nn.MaxPool2d(3, 2, 1, ceil_mode=True), nn.ZeroPad2d((1, 0, 2, 1))
        self.line, self.head = nn.Conv1d(4, 6, 3, stride=2), nn.Linear(36, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pad(self.pool(F.relu(self.stem(x))))
        x = F.relu6(self.same(F.max_pool2d(x, kernel_size=2)))
        x = F.pad(x, (0, 1, 1, 0), value=0.0)
        n, c = x.shape[0], x.size(1)
        x = torch.cat([x, x.flip(1), x[:, ::2], x[:, 1::2], x.chunk(2, 1)[1], x[:, :4]], 1)
        x = F.hardtanh(self.wide(x), -0.5, 0.7)
        h, w = x.shape[2], x.size(3)
        x = torch.cat([x, x.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)], 1)
        x = F.max_pool1d(self.deep(x).flatten(2), 2)
        return self.head(F.adaptive_max_pool2d(self.line(x).unsqueeze(1), (6, 6)).flatten(1))


class Functions(nn.Module):
    """Activation functions, which become tables, and arithmetic that stays in float."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.a, self.b = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        self.slope, self.slopes, self.norm = nn.PReLU(), nn.PReLU(8, 0.1), nn.BatchNorm2d(8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = F.hardswish(self.stem(x))
        x = self.slope(self.a(x)) * torch.sigmoid(x)
        x = self.norm(self.slopes(self.b(x))) + 0.1
        x = F.avg_pool2d(F.gelu(self.a(x)), 3, 2, 1)
        return self.head(F.layer_norm(torch.tanh(self.b(x)).mean((2, 3)), (8,)))


@functools.cache
def torchvision_model(name: str) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        return shaken(short_network(name))

    return make


def of(cls: type[nn.Module]) -> Callable[[], nn.Module]:
    def make() -> nn.Module:
        torch.manual_seed(0)
        return shaken(cls())

    return make


SMALL = {"tiny": tiny, "residuals": of(Residuals), "moves": of(Moves), "functions": of(Functions)}
LARGE = ["resnet18", "mobilenet_v2", "mobilenet_v3_small", "shufflenet_v2_x0_5"]


@torch.no_grad()
def quantized(graph: QuantGraph, batch: Tensor, scheme: Scheme, widths: BitWidths) -> dict[str, QParams]:
    return choose_qparams(calibrate(graph, [batch]), assign_specs(graph, scheme, widths), MSE(), MinMax())


def mixed_widths(graph: QuantGraph, seed: int, weight_bits: int = 8) -> BitWidths:
    """2 to 8 bits; of weights at most `weight_bits`."""
    draw = random.Random(seed)
    drawn = {name: draw.randint(2, 8) for name in graph.names}
    weights = {q.name: min(drawn[q.name], weight_bits) for q in graph.weights}
    return BitWidths(weight_bits, 8, drawn | weights)


def trained_resnet20() -> nn.Module:
    """By somebody else, from CHECKPOINT."""
    model = resnet20(num_classes=10, in_channels=3)
    state = torch.load(CHECKPOINT, weights_only=True, map_location="cpu")["state_dict"]
    model.load_state_dict({name.removeprefix("module."): value for name, value in state.items()})
    return model.eval()


def smooth_images(count: int, seed: int) -> Tensor:
    """Random images with large shapes in them, as photographs have."""
    return F.interpolate(images(count, seed=seed, size=4), size=32, mode="bicubic")
