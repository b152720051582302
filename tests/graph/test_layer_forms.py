"""Layers in every form: subclasses, functions, weights computed from parameters, several layers on one parameter."""

import copy

import pytest
import torch
import torch.nn.functional as F
from exact_kernels import needs_int8
from networks import held_against_the_model, random_images
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune, spectral_norm, weight_norm

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.engines import Int8, Simulate
from quant_sweep.graph import Fusion, Network, capture, weights_on_grid
from quant_sweep.graph.interpret import relative_difference
from quant_sweep.observers import MinMax
from quant_sweep.quantization.quantize import quantize

pytestmark = needs_int8


class Conv3x3(nn.Conv2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 3, padding=1, bias=False)


class Standardised(nn.Conv2d):
    """Weight standardisation, Qiao et al. 2019."""

    def forward(self, x: Tensor) -> Tensor:
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / (variance + 1e-5).sqrt(), self.bias, self.stride, self.padding)


class Scaled(nn.Conv2d):
    """Standardised by batch_norm, with a gain, as NFNets have it."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        self.gain = nn.Parameter(torch.rand(self.out_channels, 1, 1, 1) + 0.5)

    def forward(self, x: Tensor) -> Tensor:
        rows = self.weight.reshape(1, self.out_channels, -1)
        gain = (self.gain * 0.2).view(-1)
        weight = F.batch_norm(rows, None, None, weight=gain, training=True, momentum=0.0, eps=1e-6)
        return F.conv2d(x, weight.reshape_as(self.weight), self.bias, self.stride, self.padding)


class Upsampling(nn.ConvTranspose2d):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, 2, stride=2)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)[..., :8, :8]


class Equalised(nn.Linear):
    """A learning rate for each layer, as StyleGAN has it."""

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * 0.3, self.bias * 2)


class Masked(nn.Conv2d):
    """Causal, as PixelCNN has it."""

    def __init__(self, *args, **kwargs) -> None:
        super().__init__(*args, **kwargs)
        mask = torch.ones_like(self.weight)
        mask[:, :, 1, 1:] = mask[:, :, 2:] = 0
        self.register_buffer("mask", mask)

    def forward(self, x: Tensor) -> Tensor:
        return self._conv_forward(x, self.weight * self.mask, self.bias)


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return (weight + weight.flip(-1)) / 2


class Merged(nn.Module):
    """Two kernels as one, as structural re-parametrization has it."""

    def __init__(self) -> None:
        super().__init__()
        self.wide, self.narrow = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(3, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.wide.weight + F.pad(self.narrow.weight, (1, 1, 1, 1))
        return F.conv2d(x, weight, self.wide.bias + self.narrow.bias, padding=1)


class LowRank(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.base, self.down, self.up = nn.Conv2d(3, 8, 1), nn.Linear(3, 2, bias=False), nn.Linear(2, 8, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.base.weight + (self.up.weight @ self.down.weight)[:, :, None, None]
        return F.conv2d(x, weight, self.base.bias)


def pruned() -> nn.Module:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    prune.l1_unstructured(layer, "weight", 0.5)
    return layer


def parametrized() -> nn.Module:
    layer = nn.Conv2d(3, 8, 3, padding=1)
    parametrize.register_parametrization(layer, "weight", Symmetric())
    return layer


def normalised_and_run() -> nn.Module:
    """After a forward the weight is a tensor that PyTorch does not copy."""
    layer = weight_norm(nn.Conv2d(3, 8, 3, padding=1))
    layer(torch.randn(1, 3, 8, 8))
    return layer


def trained_spectral_norm() -> nn.Module:
    layer = spectral_norm(nn.Conv2d(3, 8, 3, padding=1))
    for _ in range(20):
        layer(torch.randn(1, 3, 8, 8))
    return layer


FORMS = {
    "a subclass": lambda: Conv3x3(3, 8),
    "weight standardisation": lambda: Standardised(3, 8, 3, padding=1),
    "standardised by batch_norm": lambda: Scaled(3, 8, 3, padding=1),
    "a subclass of ConvTranspose2d": lambda: Upsampling(3, 8),
    "a mask": lambda: Masked(3, 8, 3, padding=1),
    "weight_norm": lambda: weight_norm(nn.Conv2d(3, 8, 3, padding=1)),
    "weight_norm after a forward": normalised_and_run,
    "parametrized weight_norm": lambda: parametrizations.weight_norm(nn.Conv2d(3, 8, 3, padding=1)),
    "spectral_norm": trained_spectral_norm,
    "parametrized spectral_norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 8, 3, padding=1)),
    "orthogonal": lambda: nn.Sequential(
        nn.Flatten(2), parametrizations.orthogonal(nn.Linear(64, 64)), nn.Unflatten(2, (8, 8)), nn.Conv2d(3, 8, 1)
    ),
    "a parametrization of one's own": parametrized,
    "pruning": pruned,
    "two kernels merged": Merged,
    "a low-rank change": LowRank,
    "channels last": lambda: nn.Conv2d(3, 8, 3, padding=1).to(memory_format=torch.channels_last),
    "lazy": lambda: nn.LazyConv2d(8, 3, padding=1),
    "equalised": lambda: nn.Sequential(nn.Flatten(2), Equalised(64, 64), nn.Unflatten(2, (8, 8)), nn.Conv2d(3, 8, 1)),
    "a circular kernel": lambda: nn.Conv2d(3, 8, 3, padding=1, padding_mode="circular"),
}


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    torch.manual_seed(0)
    layer = FORMS[name]()
    model = nn.Sequential(layer, nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(512, 3)).eval()
    with torch.no_grad():
        model(random_images())
    before = copy.deepcopy(model.state_dict())
    for graph in held_against_the_model(model, random_images()).values():
        assert not graph.float_weights
        assert len(graph.weights) == (3 if name in {"orthogonal", "equalised"} else 2)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("name", ["weight_norm", "weight_norm after a forward", "spectral_norm", "pruning"])
def test_a_weight_that_was_computed_with_gradients(name: str) -> None:
    """No leaf, which PyTorch does not copy; the model keeps it."""
    torch.manual_seed(0)
    model, x = nn.Sequential(FORMS[name]()).eval(), random_images()
    weight = model[0].weight
    assert not weight.is_leaf
    graph = capture(model, x, Fusion.none).graph
    assert model[0].weight is weight
    torch.testing.assert_close(Network(graph)(x), model(x), check_dtype=False, rtol=1e-4, atol=1e-5)


# -- several layers on one parameter --


def shared(kind: str) -> nn.Module:
    """Three layers, the last two on one parameter."""
    if kind == "convolutions":
        a, b, c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(8, 8, 3, padding=2, dilation=2)
        c.weight = b.weight
    elif kind == "transposed":
        a, b, c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3, padding=1), nn.ConvTranspose2d(8, 8, 3, padding=1)
        c.weight = b.weight
    elif kind == "linear":
        a, b, c = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 8, bias=False)
        c.weight = b.weight
    elif kind == "views":
        a, b, c = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)
        c.weight = nn.Parameter(b.weight.data.view_as(b.weight))
    else:
        a = nn.Conv2d(3, 8, 3)
        b = c = nn.Conv2d(8, 8, 3, padding=1)
    return nn.Sequential(a, nn.ReLU(), b, nn.ReLU(), c, nn.Flatten(), nn.LazyLinear(4)).eval()


@pytest.mark.parametrize("kind", ["convolutions", "transposed", "linear", "views", "one layer under two names"])
@torch.no_grad()
def test_each_layer_has_its_own_grid(kind: str) -> None:
    torch.manual_seed(0)
    model, x = shared(kind), random_images()
    model(x)
    graph = held_against_the_model(model, x)[Fusion.conv_bn_relu]
    names = [q.name for q in graph.weights]
    assert names == [f"{i}.weight" for i in (0, 2, 4, 6)]
    calibration, overrides = calibrate(graph, [x]), {"2": 7, "4": 2}
    networks = [
        quantize(calibration, bits=7, observer=MinMax(), engine=engine(), overrides=overrides)
        for engine in (Simulate, Int8)
    ]
    assert relative_difference(networks[1].network(x), networks[0].network(x)) < 0.03
    qparams = networks[0].qparams
    constants = weights_on_grid(graph, qparams).constants
    for name in names:
        assert torch.equal(constants[name], fake_quantize(graph.graph.constants[name], qparams[name]))
    if kind != "transposed":  # whose weight lies in another order
        assert torch.equal(graph.graph.constants["4.weight"], graph.graph.constants["2.weight"])
    assert len(constants["4.weight"].unique()) < 30 < len(constants["2.weight"].unique())


@torch.no_grad()
def test_constants_do_not_share_memory_with_the_model() -> None:
    model = nn.Conv2d(3, 4, 1)
    graph = capture(model, random_images(), Fusion.bn).graph
    graph.constants["weight"].zero_()
    assert bool(model.weight.abs().sum() > 0)
