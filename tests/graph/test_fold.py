"""What is folded, what is not, and that neither changes the output."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from networks import norms, random_images, randomize_batch_norms
from torch import Tensor, nn

from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, Graph, Network, capture_float, with_quantizers
from quant_sweep.graph.fold import fold_batch_norms
from quant_sweep.graph.interpret import relative_difference


@torch.no_grad()
def folded_names(model: nn.Module, shape: tuple[int, ...] = (2, 3, 8, 8)) -> list[str]:
    """Paths of the BatchNorms that are gone, after a check of the output."""
    randomize_batch_norms(model)
    x = random_images(*shape)
    captured = capture_float(model, x)
    graph = with_quantizers(captured, Fusion.bn)
    torch.testing.assert_close(Network(graph.graph)(x), model(x), rtol=1e-5, atol=1e-5)
    before, left = norms(with_quantizers(captured, Fusion.none)), norms(graph)
    assert set(left) <= set(before)
    return [name.removesuffix(".output") for name in before if name not in left]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 8, 3, bias=False),
        nn.Conv2d(3, 9, 3, groups=3),
        nn.Conv2d(3, 8, 3, stride=2, padding=2, dilation=2, padding_mode="reflect"),
        nn.ConvTranspose2d(3, 4, 2),
        nn.ConvTranspose2d(3, 6, 3, 2, 1, 1, groups=3, bias=False),
    ],
    ids=["bias", "no_bias", "groups", "reflect", "transposed", "transposed_groups"],
)
def test_convolution(layer: nn.Conv2d) -> None:
    assert folded_names(nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels))) == ["1"]


def test_batch_norm_without_scale_and_shift() -> None:
    assert folded_names(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False, eps=0.1))) == ["1"]


def test_weights_and_biases_of_functions_are_named_after_what_they_compute() -> None:
    """Of a weight that two layers read, each has its own once a BatchNorm is folded into it."""

    class Functions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 3, 1, 1))
            self.a, self.b = nn.BatchNorm2d(3), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(F.conv2d(self.a(F.conv2d(x, self.kernel)), self.kernel))

    model = Functions()
    assert folded_names(model) == ["a", "b"]
    graph = with_quantizers(capture_float(model, random_images(2, 3, 8, 8)), Fusion.bn).graph
    assert [node.inputs[1:] for node in graph.nodes] == [
        ("conv2d.weight", "conv2d.bias"),
        ("kernel", "conv2d_1.bias"),
    ]


def test_a_folded_layer_keeps_the_names_of_its_weight_and_bias() -> None:
    """Or has them from its module, in which a function may be the layer."""

    class Inside(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(3, 3, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            return F.conv2d(x, self.kernel)

    layers = (nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1, bias=False), Inside())
    model = nn.Sequential(*(part for layer in layers for part in (layer, nn.BatchNorm2d(3))))
    assert folded_names(model) == ["1", "3", "5"]
    graph = with_quantizers(capture_float(model, random_images(2, 3, 8, 8)), Fusion.bn).graph
    assert [node.inputs[1:] for node in graph.nodes] == [
        ("0.weight", "0.bias"),
        ("2.weight", "2.bias"),
        ("4.kernel", "4.bias"),
    ]
    assert set(graph.constants) == {name for node in graph.nodes for name in node.inputs[1:]}


@pytest.mark.parametrize(
    ("calls", "expected"),
    [
        (lambda m, x: m.bn(m.conv(m.conv(x))), [("conv.weight", "conv.bias"), ("conv_1.weight", "conv_1.bias")]),
        (
            lambda m, x: m.conv(m.bn(m.conv(x)).relu()),
            [("conv.folded_weight", "conv.folded_bias"), (), ("conv.weight", "conv.bias")],
        ),
    ],
)
def test_a_call_that_gets_a_weight_of_its_own_has_it_by_its_own_name(calls, expected: list[tuple[str, ...]]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

        def forward(self, x: Tensor) -> Tensor:
            return calls(self, x)

    model = Net()
    assert folded_names(model) == ["bn"]
    graph = with_quantizers(capture_float(model, random_images(2, 3, 8, 8)), Fusion.bn).graph
    assert [node.inputs[1:] for node in graph.nodes] == expected


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_linear(affine: bool, bias: bool) -> None:
    assert folded_names(nn.Sequential(nn.Linear(5, 4, bias), nn.BatchNorm1d(4, affine=affine)), (7, 5)) == ["1"]


@pytest.mark.parametrize("features", [3, 4])
def test_linear_over_a_sequence(features: int) -> None:
    """BatchNorm1d then normalises the positions, not the features, whether or not there are as many."""
    assert folded_names(nn.Sequential(nn.Linear(5, features), nn.BatchNorm1d(3)), (7, 3, 5)) == []


def test_one_dimensional_convolution() -> None:
    assert folded_names(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 9)) == ["1"]


def test_three_dimensional_convolution() -> None:
    assert folded_names(nn.Sequential(nn.Conv3d(3, 4, 2), nn.BatchNorm3d(4)), (2, 3, 4, 4, 4)) == ["1"]


def test_two_batch_norms_in_a_row() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU())
    assert folded_names(model) == ["1", "2"]


def test_batch_norm_between_activations() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 1))
    assert folded_names(model) == []


# -- before a layer --


@pytest.mark.parametrize(
    ("layer", "folded"),
    [
        (nn.Conv2d(3, 4, 3), ["0"]),
        (nn.Conv2d(3, 6, 3, groups=3, bias=False, stride=2, dilation=2), ["0"]),
        (nn.Conv2d(3, 4, 3, padding=1), []),  # the zeros that are padded are not normalised
        (nn.Conv2d(3, 4, 1, padding=(0, 1)), []),
        (nn.Conv2d(3, 4, 3, padding="same"), []),
        (nn.Conv2d(3, 4, 3, padding="valid"), ["0"]),
        (nn.Conv2d(3, 4, 1, padding="same"), ["0"]),
        (nn.ConvTranspose2d(3, 4, 2), []),  # nor are those between the values
    ],
)
def test_before_a_convolution(layer: nn.Module, folded: list[str]) -> None:
    assert folded_names(nn.Sequential(nn.BatchNorm2d(3), layer)) == folded


def test_before_a_linear_layer() -> None:
    assert folded_names(nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 4, bias=False)), (7, 5)) == ["0"]


@pytest.mark.parametrize("positions", [3, 5])
def test_before_a_linear_layer_over_a_sequence(positions: int) -> None:
    assert folded_names(nn.Sequential(nn.BatchNorm1d(positions), nn.Linear(5, 4)), (7, positions, 5)) == []


@pytest.mark.parametrize(
    "returned",
    [
        lambda y, z: (y, z),
        lambda y, z: z + y.mean((2, 3), keepdim=True),
        lambda y, z: (y, z + y.mean((2, 3), keepdim=True)),
    ],
)
@torch.no_grad()
def test_what_others_read_too_is_not_folded_into_the_layer_behind(returned) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.bn, self.conv = nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)

        def forward(self, x: Tensor):
            y = self.bn(x)
            return returned(y, self.conv(y))

    model, x = randomize_batch_norms(Net()), random_images(2, 3, 8, 8)
    graph = with_quantizers(capture_float(model, x), Fusion.bn)
    assert norms(graph) == ["bn.output"]
    assert relative_difference(Network(graph.graph)(x), model(x)) < 1e-5


def test_before_zeros_that_are_padded() -> None:
    assert folded_names(nn.Sequential(nn.BatchNorm2d(3), nn.ZeroPad2d(1), nn.Conv2d(3, 4, 3))) == []


# -- channels that another axis holds --


class Between(nn.Module):
    """A layer, something that moves its values, a BatchNorm."""

    def __init__(self, layer: nn.Module, move, norm: nn.Module) -> None:
        super().__init__()
        self.layer, self.move, self.norm = layer, move, norm

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.move(self.layer(x))).reshape(x.shape[0], -1)


@pytest.mark.parametrize(
    ("move", "channels", "folded"),
    [
        (lambda y: y.flatten(2), 8, True),
        (lambda y: y.permute(0, 2, 3, 1).reshape(-1, 8), 8, True),
        (lambda y: y.reshape(y.shape[0], 8, 64), 8, True),
        (lambda y: y.unsqueeze(-1).squeeze(-1), 8, True),
        (lambda y: torch.permute(y, dims=(0, 1, 3, 2)), 8, True),
        (lambda y: torch.transpose(y, dim0=3, dim1=-2), 8, True),
        (lambda y: y.transpose(1, 2), 8, False),  # channels are rows now, and there are eight of either
        (lambda y: y.permute(0, 3, 1, 2), 8, False),
        (lambda y: y.flatten(1).reshape(-1, 64, 8), 64, False),
        (lambda y: y.reshape(-1, 2, 4, 8, 8).transpose(1, 2).reshape(-1, 8, 8, 8), 8, False),
        (lambda y: y.flip(1), 8, False),
        (lambda y: y[:, :4], 4, False),
        (lambda y: F.max_pool2d(y, 2), 8, False),  # a negative gamma would make of the largest the least
        (lambda y: F.avg_pool2d(y, 3, 1, 1), 8, False),
    ],
)
def test_channels_are_followed_through_moves(move, channels: int, folded: bool) -> None:
    with torch.no_grad():
        dims = move(torch.zeros(2, 8, 8, 8)).dim()
    norm = nn.BatchNorm2d(channels) if dims == 4 else nn.BatchNorm1d(channels)
    assert folded_names(Between(nn.Conv2d(3, 8, 1), move, norm)) == ["norm"] * folded


@pytest.mark.parametrize("channels", [2, 3])
def test_few_channels_are_followed_too(channels: int) -> None:
    layer, norm = nn.Conv2d(3, channels, 1), nn.BatchNorm1d(channels)
    assert folded_names(Between(layer, lambda y: y.flatten(2), norm)) == ["norm"]


def test_linear_over_a_sequence_as_rows() -> None:
    """As levit does it: BatchNorm1d of all positions of all images."""
    model = Between(nn.Linear(5, 4, bias=False), lambda y: y.flatten(0, 1), nn.BatchNorm1d(4))
    assert folded_names(model, (7, 3, 5)) == ["norm"]


def test_linear_over_a_sequence_turned() -> None:
    model = Between(nn.Linear(5, 4), lambda y: y.transpose(1, 2), nn.BatchNorm1d(4))
    assert folded_names(model, (7, 4, 5)) == ["norm"]


class ScaledAxis(nn.Module):
    """A layer over the last of three axes, then a product and a sum with a number for each place of one of them."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.gain, self.shift = (nn.Parameter(torch.randn(4, *[1] * (2 - axis))) for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) * self.gain + self.shift


@pytest.mark.parametrize(("axis", "left"), [(2, []), (1, ["add.output"])])
@torch.no_grad()
def test_numbers_of_a_linear_layer_s_own_features_are_folded(axis: int, left: list[str]) -> None:
    model, x = ScaledAxis(axis), random_images(3, 4, 4)
    graph = with_quantizers(capture_float(model, x), Fusion.bn)
    assert norms(graph) == left
    torch.testing.assert_close(Network(graph.graph)(x), model(x), rtol=1e-5, atol=1e-5)


# -- layers with several calls or readers --


class Twice(nn.Module):
    """conv and bn, each called as often as told."""

    def __init__(self, convs: int, norms: int, keyword: bool = False) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
        self.convs, self.norms, self.keyword = convs, norms, keyword

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(self.convs):
            x = self.conv(input=x) if self.keyword else self.conv(x)
        for _ in range(self.norms):
            x = self.bn(input=x) if self.keyword else self.bn(x)
        return x


@pytest.mark.parametrize(
    ("convs", "norms", "folded"),
    [(1, 1, ["bn"]), (2, 1, ["bn"]), (1, 2, ["bn", "bn_1"]), (2, 2, ["bn", "bn_1"])],
)
@pytest.mark.parametrize("keyword", [False, True])
def test_layers_that_are_called_twice(convs: int, norms: int, folded: list[str], keyword: bool) -> None:
    """The call that a BatchNorm follows gets a weight of its own."""
    assert folded_names(Twice(convs, norms, keyword)) == folded


class OneWeightSeveralNorms(nn.Module):
    """A detector's head: one convolution on every level, a BatchNorm for each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norms = nn.Conv2d(3, 3, 1, bias=False), nn.ModuleList(nn.BatchNorm2d(3) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        first, second, third = (norm(self.conv(x * (i + 1))) for i, norm in enumerate(self.norms))
        return first + second * third


def test_a_shared_convolution_gets_a_weight_for_each_norm() -> None:
    model = OneWeightSeveralNorms()
    assert folded_names(model) == ["norms.0", "norms.1", "norms.2"]
    graph = with_quantizers(capture_float(model, random_images()), Fusion.conv_bn_relu)
    assert len(graph.weights) == 3


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y


def test_convolution_with_two_readers() -> None:
    assert folded_names(TwoReaders()) == []


class Returned(TwoReaders):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return self.bn(y), y


@torch.no_grad()
def test_a_convolution_that_is_returned_too() -> None:
    model, x = randomize_batch_norms(Returned()), random_images()
    graph = with_quantizers(capture_float(model, x), Fusion.bn)
    assert norms(graph) == ["bn.output"]
    assert relative_difference(Network(graph.graph)(x), model(x)) < 1e-5


def test_a_bias_that_two_layers_share_is_folded_for_one() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.norm = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)
            self.b.bias = self.a.bias

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.norm(self.a(x)).relu())

    assert folded_names(Shared()) == ["norm"]


def test_a_mistake_in_folding_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    model = randomize_batch_norms(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU()))

    def wrong(graph: Graph) -> Graph:
        folded = fold_batch_norms(graph)
        return replace(folded, constants={name: 1.01 * value for name, value in folded.constants.items()})

    monkeypatch.setattr("quant_sweep.graph.quantizers.fold_batch_norms", wrong)
    with torch.no_grad():
        captured = capture_float(model, random_images(2, 3, 8, 8))
        assert with_quantizers(captured, Fusion.none)
        with pytest.raises(InputError, match=r"^model=Sequential: the network with BatchNorm folded parts"):
            with_quantizers(captured, Fusion.bn)
