"""Cross-layer equalisation: the same network in float, ranges that meet, and what it is for."""

import itertools
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from layer_networks import on_grids, rounded_weight, several
from small_networks import SlowTwin, captured, cifar_resnet20, images
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, Network, capture
from quant_sweep.quantization.scheme import AFFINE, Scheme
from quant_sweep.recovery import Bias, Equalize, OnGrids, equalize, recover
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


def two_layers(first: nn.Module, between: nn.Module, second: nn.Module) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(first, nn.ReLU(), between, second).eval()


@pytest.mark.parametrize(
    ("first", "between", "second"),
    [
        (nn.Conv2d(3, 8, 3), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)),
        (nn.Conv2d(3, 8, 3), nn.AvgPool2d(3, stride=1), nn.Conv2d(8, 4, 3)),
        (nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(4), nn.Conv2d(8, 4, 3)),
        (nn.Conv2d(3, 8, 3), nn.AdaptiveMaxPool2d(4), nn.Conv2d(8, 4, 3)),
        (nn.Conv1d(3, 8, 3), nn.AdaptiveAvgPool1d(4), nn.Conv1d(8, 4, 3)),
        (nn.Conv3d(3, 8, 3), nn.AdaptiveMaxPool3d(4), nn.Conv3d(8, 4, 3)),
    ],
    ids=lambda module: type(module).__name__,
)
def test_a_pooling_may_lie_between_two_layers(first: nn.Module, between: nn.Module, second: nn.Module) -> None:
    x = torch.randn(4, 3, *[10] * (first.weight.dim() - 2), generator=torch.Generator().manual_seed(0))
    original = capture(two_layers(first, between, second), x, Fusion.conv_bn_relu)
    assert [(pair.first, pair.second) for pair in pairs_of(original.graph)] == [("0.output", "3.output")]
    again = Equalize().same_network(original)
    assert not torch.equal(again.graph.constants["0.weight"], original.graph.constants["0.weight"])
    torch.testing.assert_close(Network(again.graph)(x), Network(original.graph)(x), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("first", "between", "second"),
    [
        (nn.Conv1d(5, 8, 3), nn.MaxPool2d(3, stride=1, padding=1), nn.Conv1d(8, 4, 1)),
        (nn.Conv1d(5, 8, 3), nn.AdaptiveAvgPool2d((8, 3)), nn.Conv1d(8, 4, 1)),
        (nn.Linear(6, 8), nn.MaxPool1d(3, stride=1, padding=1), nn.Linear(8, 4)),
        (nn.Linear(6, 8), nn.AvgPool1d(2), nn.Linear(4, 4)),
        (nn.Linear(6, 8), nn.AdaptiveAvgPool1d(8), nn.Linear(8, 4)),
        (nn.Linear(6, 8), nn.Identity(), nn.Conv1d(5, 4, 1)),
        (nn.Conv1d(5, 8, 3), nn.Identity(), nn.Linear(4, 4)),
        (nn.Linear(6, 8), nn.Identity(), nn.Sigmoid()),
    ],
    ids=lambda module: type(module).__name__,
)
def test_layers_whose_channels_do_not_meet(first: nn.Module, between: nn.Module, second: nn.Module) -> None:
    """A pooling mixes the channels of a layer, the next layer reads them along another axis, or there is none."""
    x = torch.randn(4, 5, 6, generator=torch.Generator().manual_seed(0))
    graph = capture(two_layers(first, between, second), x, Fusion.conv_bn_relu).graph
    assert pairs_of(graph) == []


class Twice(nn.Module):
    """The last two layers share a weight, which cannot be made to fit what each of them reads."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.shared = nn.Linear(6, 6), nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.shared(F.relu(self.shared(F.relu(self.a(x)))))


def test_shared_weights_stay() -> None:
    assert pairs_of(capture(Twice().eval(), torch.randn(2, 6), Fusion.conv_bn_relu).graph) == []


def test_channels_of_nothing_stay() -> None:
    """Without weights on one side no factor makes the ranges meet."""
    model = uneven(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Conv2d(4, 3, 1)))
    with torch.no_grad():
        model[0].weight[:2] = 0
        model[2].weight[:, 1:3] = 0
        model[4].weight[:, 3] = 0
    original = capture(model, images(2), Fusion.conv_bn_relu)
    again = Equalize().same_network(original)
    before, after = original.graph.constants, again.graph.constants
    for name, channels in (("0.weight", slice(0, 3)), ("0.bias", slice(0, 3)), ("2.bias", slice(3, 4))):
        assert torch.equal(after[name][channels], before[name][channels])
        assert not torch.equal(after[name], before[name])
    assert torch.equal(after["4.weight"][:, 3], before["4.weight"][:, 3])
    x = images(4, seed=2)
    torch.testing.assert_close(Network(again.graph)(x), Network(original.graph)(x), rtol=1e-3, atol=1e-4)


def test_rounds_end_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ranges of one pair meet in the first round; the second one finds nothing to do."""
    read, by_input = [], equalize._by_input
    monkeypatch.setattr(
        equalize, "_by_input", lambda layer, weight: (read.append(layer.name), by_input(layer, weight))[1]
    )
    model = uneven(nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3)))
    Equalize().same_network(capture(model, images(2), Fusion.conv_bn_relu))
    assert read == ["2.output"] * 2


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


def test_new_grids_lie_on_the_device_of_the_old_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where these lie on a GPU; tensors on `meta` have no values, so none are checked."""
    monkeypatch.setattr(QParams, "__post_init__", lambda _: None)
    original, quantized = on_grids(uneven(Chain()), images(8), bits=4)
    device = torch.device("meta")
    elsewhere = {name: grid.to(device) for name, grid in quantized.qparams.items()}
    made = Equalize().recover(original, OnGrids(quantized.graph, elsewhere), [images(8)])
    assert {grid.scale.device for grid in made.qparams.values()} == {device}


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
