"""Small networks ready to be explained."""

import torch
from small_networks import images, shaken, tiny
from torch import Tensor, nn

from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines import Engine, Simulate
from quant_sweep.explain import Subject
from quant_sweep.graph import Fusion, quantizable
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


def odd() -> nn.Module:
    torch.manual_seed(1)
    return shaken(Odd())


def subject(
    model: nn.Module | None = None,
    fusion: Fusion = Fusion.conv_bn_relu,
    bits: int = 8,
    scheme: Scheme = AFFINE,
    engine: Engine | None = None,
    batch: Tensor | None = None,
) -> Subject:
    """A network calibrated on a few images."""
    graph = quantizable(tiny() if model is None else model, fusion)
    specs = assign_specs(graph, scheme, BitWidths(bits, bits, {}))
    calibration = calibrate(graph, [images(4) if batch is None else batch])
    qparams = choose_qparams(calibration, specs, MSE(), MinMax())
    engine = engine or Simulate()
    network = engine.build(graph, qparams)
    name = type(engine).__name__.lower()
    return Subject(graph, qparams, calibration.summaries, MSE(), MinMax(), network, name)
