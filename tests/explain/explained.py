"""Small networks ready to be explained."""

import functools
from typing import Any

import torch
import torch.nn.functional as F
from small_networks import images, shaken, tiny
from torch import Tensor, nn

from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines import Engine, Simulate
from quant_sweep.explain import Subject
from quant_sweep.graph import Fusion, capture
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, assign_specs

SYMMETRIC = Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)


class Odd(nn.Module):
    """Layers of every shape: depthwise and dilated, strided with reflected padding, 1-d behind a ReLU6, linear on a
    sequence."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, padding=2, dilation=2, groups=3)
        self.b = nn.Conv2d(6, 4, (3, 1), stride=2, padding=(1, 0), padding_mode="reflect")
        self.c = nn.Conv1d(4, 4, 3, padding=1, groups=2)
        self.d, self.e = nn.Linear(32, 5), nn.Linear(20, 3)
        self.relu6 = nn.ReLU6()

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu6(self.b(self.relu6(self.a(x))))
        x = self.relu6(self.c(x.flatten(2)))
        return self.e(self.relu6(self.d(x[:, :, :32])).flatten(1))


class Upwards(nn.Module):
    """Padding that differs between the sides, transposed convolutions (with groups and output padding, and 1-d), a
    residual that broadcasts, three dimensions, a linear layer without bias, and a channel that training switched off:
    its bias is 10^9 steps of its accumulator and more."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Conv2d(3, 4, 4, padding="same")
        self.g = nn.ConvTranspose2d(4, 6, 3, stride=2, padding=1, output_padding=1, groups=2)
        self.h = nn.Conv2d(6, 6, 1)
        self.i = nn.Conv3d(2, 3, 2, padding=1)
        self.j = nn.ConvTranspose1d(3, 4, 3, stride=2, dilation=2)
        self.k = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.g(torch.relu(self.f(x))))
        x = torch.relu(self.h(x) + F.max_pool2d(x, 32))
        x = torch.relu(self.i(x[:, :, :6, :6].reshape(-1, 2, 3, 6, 6)))
        return self.k(torch.relu(self.j(x.flatten(2)[:, :, :8])).mean(2))


def upwards() -> nn.Module:
    torch.manual_seed(2)
    model = shaken(Upwards())
    with torch.no_grad():
        model.get_submodule("f").weight[0] *= 1e-10
        model.get_submodule("f").bias[0] = 1.0
    return model


def odd() -> nn.Module:
    torch.manual_seed(1)
    return shaken(Odd())


NETWORKS = {"tiny": (tiny, ("conv1", "conv2", "linear")), "odd": (odd, "abcde"), "upwards": (upwards, "fghijk")}
CASES = [(kind, layer) for kind, (_, layers) in NETWORKS.items() for layer in layers]


@functools.cache
def subject_of(kind: str, **more: Any) -> Subject:
    """One of `NETWORKS`, calibrated; made once for all tests that ask for the same."""
    return subject(NETWORKS[kind][0](), **more)


def subject(
    model: nn.Module | None = None,
    fusion: Fusion = Fusion.conv_bn_relu,
    bits: int = 8,
    scheme: Scheme = AFFINE,
    engine: Engine | None = None,
    batch: Tensor | None = None,
) -> Subject:
    """A network calibrated on a few images."""
    batch = images(4) if batch is None else batch
    graph = capture(tiny() if model is None else model, batch, fusion)
    specs = assign_specs(graph, scheme, BitWidths(bits, bits, {}))
    calibration = calibrate(graph, [batch])
    qparams = choose_qparams(calibration, specs, MSE(), MinMax())
    engine = engine or Simulate()
    network = engine.build(graph, qparams)
    name = type(engine).__name__.lower()
    return Subject(graph, qparams, calibration.summaries, MSE(), MinMax(), network, name)
