"""Cross-layer equalisation: the same network in float, ranges that meet, and what it is for."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from layer_networks import on_grids, rounded_weight, several
from small_networks import SlowTwin, captured, cifar_resnet20, images
from torch import Tensor, nn

from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, Network, capture
from quant_sweep.quantization.scheme import AFFINE, Scheme
from quant_sweep.recovery import Bias, Equalize, recover
from quant_sweep.recovery.equalize import pairs_of
from quant_sweep.recovery.recover import damages

PER_TENSOR = Scheme(weight_per_channel=False, weight_narrow_range=True, activation_symmetric=False)


class Chain(nn.Module):
    """Every pair of layers that can be scaled: plain, depthwise, grouped, pooled, transposed, 1-d and linear."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.depthwise = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 16, 3, groups=8)
        self.grouped, self.b = nn.Conv2d(16, 12, 1, groups=4), nn.ConvTranspose2d(12, 6, 2, groups=3)
        self.c, self.d, self.e = nn.Conv1d(6, 5, 2), nn.Linear(5, 7), nn.Linear(7, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.depthwise(F.relu(self.a(x))))
        x = self.b(F.avg_pool2d(F.relu(self.grouped(F.max_pool2d(x, 2))), 2))
        return self.e(F.relu(self.d(F.relu(self.c(x.mean(2))).mean(2))))


def uneven(model: nn.Module) -> nn.Module:
    """With channels of very different sizes that the layer behind makes up for, as folding BatchNorm may leave them."""
    torch.manual_seed(0)
    layers = dict(model.named_modules())
    with torch.no_grad():
        for pair in pairs_of(capture(model, images(2), Fusion.conv_bn_relu).graph):
            first, second = (layers[name.removesuffix(".output")] for name in (pair.first, pair.second))
            t = torch.exp(1.5 * torch.randn(len(first.bias)))
            first.bias /= t
            first.weight /= t.reshape(-1, *[1] * (first.weight.dim() - 1))
            if isinstance(second, nn.ConvTranspose2d):
                second.weight *= t.reshape(-1, 1, 1, 1)
                continue
            groups = getattr(second, "groups", 1)
            each = t.reshape(groups, 1, -1).expand(-1, len(second.weight) // groups, -1)
            second.weight *= each.reshape(*second.weight.shape[:2], *[1] * (second.weight.dim() - 2))
    return model.eval()


@pytest.mark.parametrize("model", [lambda: uneven(Chain()), several, cifar_resnet20])
def test_it_is_the_same_network(model: Callable[[], nn.Module]) -> None:
    original = capture(model(), images(2), Fusion.conv_bn_relu)
    assert pairs_of(original.graph)
    again = Equalize().same_network(original)
    x = images(8, seed=2)
    torch.testing.assert_close(Network(again.graph)(x), Network(original.graph)(x), rtol=1e-3, atol=1e-4)


def test_pairs() -> None:
    graph = capture(Chain().eval(), images(2), Fusion.conv_bn_relu).graph
    pairs = [(pair.first, pair.second) for pair in pairs_of(graph)]
    names = ["a", "depthwise", "grouped", "b"]
    assert pairs == [
        *((f"{one}.output", f"{other}.output") for one, other in itertools.pairwise(names)),
        ("d.output", "e.output"),
    ]
    inside = [(pair.first, pair.second) for pair in pairs_of(captured(cifar_resnet20, Fusion.bn).graph)]
    assert inside == [
        (f"layer{i}.{j}.conv1.output", f"layer{i}.{j}.conv2.output") for i in (1, 2, 3) for j in (0, 1, 2)
    ]


def test_ranges_meet() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    graph = Equalize().same_network(capture(model, images(2), Fusion.conv_bn_relu)).graph
    r1 = graph.constants["0.weight"].flatten(1).abs().amax(1)
    r2 = graph.constants["2.weight"].abs().amax((0, 2, 3))
    torch.testing.assert_close(r1, r2, rtol=1e-3, atol=1e-6)
    before = model[0].weight.flatten(1).abs().amax(1) * model[2].weight.abs().amax((0, 2, 3))
    torch.testing.assert_close(r1 * r2, before.detach(), rtol=1e-3, atol=1e-6)


def test_it_helps_grids_of_one_scale() -> None:
    model = uneven(nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 8, 3), nn.Flatten(), nn.Linear(1152, 4)))
    original, quantized = on_grids(model, images(32), bits=4, scheme=PER_TENSOR)
    made = Equalize().recover(original, quantized, [images(32)])
    test = [images(32, seed=5)]
    before, after = damages(original, [quantized, made], test)
    assert after < 0.5 * before
    assert {name: grid.spec for name, grid in made.qparams.items()} == {
        name: grid.spec for name, grid in quantized.qparams.items()
    }


def test_what_comes_after_compares_with_the_equalised_network() -> None:
    original, quantized = on_grids(uneven(Chain()), images(64), bits=4, scheme=PER_TENSOR)
    made = recover(original, quantized, [images(64)], {"equalize": Equalize(), "bias": Bias()})
    assert made.steps["equalize"].kept
    twin = SlowTwin(made.quantized.graph, made.quantized.qparams)
    seen = torch.cat([images(64)[i : i + 7] for i in range(0, 64, 8)])
    twin.run(seen)
    wanted = Network(Equalize().same_network(original).graph).values(seen, keep=lambda _: True)
    torch.testing.assert_close(
        twin.values["b.output"].mean((0, 2, 3)), wanted["b.output"].mean((0, 2, 3)), rtol=1e-3, atol=1e-3
    )
    assert rounded_weight(made.on_grids(), "a.weight").shape == (8, 3, 3, 3)


def test_a_network_without_pairs() -> None:
    original, quantized = on_grids(nn.Sequential(nn.Conv2d(3, 4, 3), nn.Sigmoid()).eval(), images(8), bits=4)
    with pytest.raises(InputError, match="recovery=equalize: no layer of this network reads another"):
        Equalize().recover(original, quantized, [images(8)])
    assert AFFINE.weight_per_channel
