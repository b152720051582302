"""BatchNorm in every form that people write it in is folded where that is exact, and right where it is not."""

import pytest
import torch
import torch.nn.functional as F
from exact_kernels import needs_int8
from networks import held_against_the_model, norms, random_images, randomize_batch_norms
from torch import Tensor, nn
from torchvision.ops import FrozenBatchNorm2d

from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.engines import Simulate
from quant_sweep.graph import Fusion, capture_float
from quant_sweep.graph.operations import BatchNorm
from quant_sweep.observers import MSE
from quant_sweep.quantization.quantize import quantize

pytestmark = needs_int8


class NormAct(nn.BatchNorm2d):
    """BatchNorm and ReLU in one module, as model zoos have it."""

    def forward(self, x: Tensor) -> Tensor:
        mean, variance = self.running_mean, self.running_var
        return F.relu(F.batch_norm(x, mean, variance, self.weight, self.bias, False, 0.1, self.eps))


class FrozenNorm(nn.Module):
    """As detectors have it: a product and a sum, of buffers alone."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        for name, value in {"weight": 1.0, "bias": 0.0, "running_mean": 0.0, "running_var": 1.0}.items():
            self.register_buffer(name, value + 0.3 * torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        scale = self.weight * (self.running_var + 1e-5).rsqrt()
        return x * scale.reshape(1, -1, 1, 1) + (self.bias - self.running_mean * scale).reshape(1, -1, 1, 1)


class TwoLayers(nn.Module):
    def __init__(self, first: nn.Module, norm: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.first, self.norm, self.last = first, norm, last

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.first(x))))


class ByHand(FrozenNorm):
    """As its formula has it, in four steps."""

    def forward(self, x: Tensor) -> Tensor:
        mean, deviation, gamma, beta = (
            values[:, None, None]
            for values in (self.running_mean, (self.running_var + 1e-5).sqrt(), self.weight, self.bias)
        )
        return beta + gamma * ((x - mean) / deviation)


class ScaledBranch(nn.Module):
    """Layer scale: a product alone, which stays where it is."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.branch, self.last = nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1), nn.Conv2d(8, 4, 1)
        self.gamma = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        return self.last(x + self.gamma * self.branch(x))


class Biased(nn.Module):
    """Products with matrices, whose biases are added by hand."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Parameter(torch.randn(192, 8) / 14), nn.Parameter(torch.randn(8, 4) / 3)
        self.biases = nn.ParameterList([torch.randn(8), torch.randn(1, 4)])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x.flatten(1) @ self.first + self.biases[0]) @ self.last + self.biases[1]


class ReadTwice(TwoLayers):
    """The product has another reader than the sum, and rows are shifted where channels are scaled."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(x) * self.norm.weight.reshape(-1, 1, 1)
        return self.last(y + self.norm.bias.reshape(-1, 1, 1) + y.tanh())


class RowsAndChannels(TwoLayers):
    """A sum over rows, of which there are as many as channels."""

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.first(x) * self.norm.weight.reshape(-1, 1, 1) + self.norm.bias.reshape(-1, 1))


class EmptyForward(nn.BatchNorm2d):
    """A subclass that only calls what it inherits."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x)


class WithoutNumbers(nn.Module):
    """Statistics as tensors, no gamma and no beta."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean, self.variance = torch.randn(channels) * 0.3, torch.rand(channels) + 0.5

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(x, self.mean, self.variance)


class GammaOnly(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.mean, self.variance = torch.zeros(channels), torch.ones(channels)
        self.gamma = nn.Parameter(torch.rand(channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.batch_norm(x, self.gamma, None, self.mean, self.variance, False, 0.1, 1e-3, False)


class Sequence(nn.Module):
    """BatchNorm1d over the features of a sequence, turned for it and back."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.norm, self.head = nn.Linear(8, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.mix(x.flatten(1, 2)).transpose(1, 2)).transpose(1, 2)
        return self.head(F.relu(y))


class OfPositions(Sequence):
    """The same sizes, and the other axis."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(24)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.mix(x.flatten(1, 2)))))


class SquarePositions(Sequence):
    """As many positions as features."""

    def forward(self, x: Tensor) -> Tensor:
        return self.head(F.relu(self.norm(self.mix(x[:, 0]))))


class ConvolutionOfColumns(nn.Module):
    """As many rows as channels: BatchNorm of the rows."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.relu(self.norm(self.conv(x).transpose(1, 2))))


class SharedConvolution(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.first, self.second = nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.conv(F.relu(self.first(self.conv(x)))))


class PreActivation(nn.Module):
    """BatchNorm, ReLU, convolution: nothing to fold it into."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.conv = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.conv(F.relu(self.norm(x)))


class OfASum(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.norm, self.last = (
            nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Conv2d(8, 4, 3, padding=1)
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.norm(self.a(x) + self.b(x)))


class PartOfChannels(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.last = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(4), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.conv(x).chunk(2, 1)
        return self.last(torch.cat([self.norm(first), second], 1))


class LargeMomentum(nn.BatchNorm2d):
    """Counts its calls, as training code does."""

    def forward(self, x: Tensor) -> Tensor:
        if self.training:
            self.num_batches_tracked += 1
        training = self.training or self.running_mean is None
        return F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, training, 0.9, self.eps)


def conv(outputs: int = 8, **more) -> nn.Module:
    return nn.Conv2d(3, outputs, 3, padding=1, **more)


LAST = nn.Conv2d(8, 4, 1)
# Networks, and the BatchNorms that stay.
FORMS = {
    "a subclass with its activation": (nn.Sequential(conv(bias=False), NormAct(8), LAST), []),
    "a subclass that only inherits": (TwoLayers(conv(), EmptyForward(8), LAST), []),
    "a subclass that counts": (TwoLayers(conv(), LargeMomentum(8), LAST), []),
    "F.batch_norm without gamma and beta": (TwoLayers(conv(), WithoutNumbers(8), LAST), []),
    "torch.batch_norm with gamma alone": (TwoLayers(conv(bias=False), GammaOnly(8), LAST), []),
    "frozen, as a product and a sum": (TwoLayers(conv(), FrozenNorm(8), LAST), []),
    "frozen, by its formula": (TwoLayers(conv(), ByHand(8), LAST), []),
    "frozen, behind a transposed convolution": (TwoLayers(nn.ConvTranspose2d(3, 8, 2, 2), FrozenNorm(8), LAST), []),
    "torchvision's frozen": (TwoLayers(conv(bias=False), FrozenBatchNorm2d(8), LAST), []),
    "images normalised inside": (nn.Sequential(ByHand(3), nn.Conv2d(3, 8, 3), nn.ReLU(), LAST), []),
    "images normalised before padding": (nn.Sequential(ByHand(3), conv(), nn.ReLU(), LAST), ["0.add.output"]),
    "biases added by hand": (Biased(), []),
    "a product alone": (ScaledBranch(), []),
    "a product that is read twice": (ReadTwice(conv(), FrozenNorm(8), LAST), ["add.output"]),
    "sums over rows": (RowsAndChannels(conv(), FrozenNorm(8), LAST), ["add.output"]),
    "without gamma and beta": (TwoLayers(conv(), nn.BatchNorm2d(8, affine=False), LAST), []),
    "SyncBatchNorm": (TwoLayers(conv(), nn.SyncBatchNorm(8), LAST), []),
    "behind groups": (TwoLayers(conv(9, groups=3), nn.BatchNorm2d(9), nn.Conv2d(9, 4, 1)), []),
    "behind a transposed convolution": (TwoLayers(nn.ConvTranspose2d(3, 8, 2, 2), nn.BatchNorm2d(8), LAST), []),
    "behind a transposed convolution in groups": (
        TwoLayers(nn.ConvTranspose2d(3, 9, 3, 2, 1, groups=3), nn.BatchNorm2d(9), nn.Conv2d(9, 4, 1)),
        [],
    ),
    "behind a linear layer": (
        nn.Sequential(
            nn.Flatten(), nn.Linear(192, 8, bias=False), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 3)
        ),
        [],
    ),
    "over the features of a sequence": (Sequence(), []),
    "over the positions of a sequence": (OfPositions(), ["norm.output"]),
    "over as many positions as features": (SquarePositions(), ["norm.output"]),
    "over as many rows as channels": (ConvolutionOfColumns(), ["norm.output"]),
    "of a shared convolution": (SharedConvolution(), []),
    "before an activation": (PreActivation(), ["norm.output"]),
    "of a sum": (OfASum(), ["norm.output"]),
    "of a part of the channels": (PartOfChannels(), ["norm.output"]),
    "before a convolution": (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3), nn.ReLU(), LAST), []),
    "before a convolution in groups": (
        nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 9, 3, groups=3), nn.ReLU(), nn.Conv2d(9, 4, 1)),
        [],
    ),
    "before a padded convolution": (nn.Sequential(nn.BatchNorm2d(3), conv(), nn.ReLU(), LAST), ["0.output"]),
    "twice": (nn.Sequential(conv(), nn.BatchNorm2d(8), nn.BatchNorm2d(8), nn.ReLU(), LAST), []),
    "with gammas below 0": (TwoLayers(conv(), nn.BatchNorm2d(8), LAST), []),
}


@pytest.mark.parametrize("name", FORMS)
def test_form(name: str) -> None:
    torch.manual_seed(0)
    model, left = FORMS[name]
    randomize_batch_norms(model)
    if name == "with gammas below 0":
        model.norm.weight.data.neg_()
    found = held_against_the_model(model, random_images())
    assert norms(found[Fusion.conv_bn_relu]) == norms(found[Fusion.bn]) == left


@torch.no_grad()
def test_one_function_gives_one_network_however_it_is_written() -> None:
    """BatchNorm and ReLU as modules, as one subclass, as functions: the same quantizers, grids and numbers."""

    class Functions(nn.BatchNorm2d):
        def forward(self, x: Tensor) -> Tensor:
            y = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, eps=self.eps)
            return torch.relu_(y)

    results = []
    x = random_images(16, 3, 8, 8)
    for norm in (lambda n: nn.Sequential(nn.BatchNorm2d(n), nn.ReLU()), NormAct, Functions):
        torch.manual_seed(0)
        layers = [part for _ in range(3) for part in (nn.Conv2d(3, 3, 3, padding=1, bias=False), norm(3))]
        model = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)).eval()
        randomize_batch_norms(model)
        graph = held_against_the_model(model, x)[Fusion.conv_bn_relu]
        quantized = quantize(calibrate(graph, [x]), bits=4, observer=MSE(), engine=Simulate())
        grids = [(float(q.scale), int(q.zero_point)) for q in quantized.qparams.values() if q.scale.dim() == 0]
        results.append((grids, quantized.network(x)))
    (grids, logits), *others = results
    for other_grids, other_logits in others:
        assert other_grids == grids
        assert torch.equal(other_logits, logits)


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_the_momentum_of_a_batch_norm_is_kept(momentum: float | None) -> None:
    """None, with which every batch counts alike, torch.nn passes on as 0."""
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, momentum=momentum)).eval()
    (norm,) = capture_float(model, random_images()).graph.nodes[1:]
    assert isinstance(norm.operation, BatchNorm)
    assert norm.operation.momentum == momentum
