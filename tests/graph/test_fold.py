"""What is folded, what is not, and that neither changes the output."""

import pytest
import torch
from networks import randomize_batch_norms
from torch import Tensor, nn

from quant_sweep.graph import Fusion, quantizable
from quant_sweep.graph.fold import fold_batch_norms
from quant_sweep.graph.trace import trace


def folded_names(model: nn.Module, shape: tuple[int, ...] = (2, 3, 8, 8)) -> list[str]:
    """Paths of the BatchNorms that are gone, after a check of the output."""
    randomize_batch_norms(model)
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    graph = quantizable(model, Fusion.bn)
    with torch.no_grad():
        torch.testing.assert_close(graph.module(x), model(x), rtol=1e-5, atol=1e-5)
    norms = nn.BatchNorm1d, nn.BatchNorm2d
    left = {name for name, module in graph.module.named_modules() if isinstance(module, norms)}
    return [name for name, module in model.named_modules() if isinstance(module, norms) and name not in left]


@pytest.mark.parametrize(
    "layer",
    [
        nn.Conv2d(3, 8, 3),
        nn.Conv2d(3, 8, 3, bias=False),
        nn.Conv2d(3, 9, 3, groups=3),
        nn.Conv2d(3, 8, 3, stride=2, padding=2, dilation=2, padding_mode="reflect"),
    ],
    ids=["bias", "no_bias", "groups", "reflect"],
)
def test_convolution(layer: nn.Conv2d) -> None:
    assert folded_names(nn.Sequential(layer, nn.BatchNorm2d(layer.out_channels))) == ["1"]


def test_batch_norm_without_scale_and_shift() -> None:
    assert folded_names(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, affine=False, eps=0.1))) == ["1"]


def test_linear() -> None:
    assert folded_names(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4)), (7, 5)) == ["1"]


def test_linear_over_a_sequence() -> None:
    """BatchNorm1d then normalises the positions, not the features."""
    assert folded_names(nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(3)), (7, 3, 5)) == []


def test_one_dimensional_convolution() -> None:
    assert folded_names(nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 9)) == ["1"]


def test_two_batch_norms_in_a_row() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4), nn.ReLU())
    assert folded_names(model) == ["1", "2"]


def test_batch_norm_first() -> None:
    assert folded_names(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1))) == []


def test_batch_norm_without_running_statistics() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False))
    assert folded_names(model) == []


def test_transposed_convolution() -> None:
    assert folded_names(nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.BatchNorm2d(4))) == []


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


@pytest.mark.parametrize(("convs", "norms", "folded"), [(1, 1, ["bn"]), (2, 1, []), (1, 2, []), (2, 2, [])])
@pytest.mark.parametrize("keyword", [False, True])
def test_layers_that_are_called_twice(convs: int, norms: int, folded: list[str], keyword: bool) -> None:
    assert folded_names(Twice(convs, norms, keyword)) == folded


class TwoReaders(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y


def test_convolution_with_two_readers() -> None:
    assert folded_names(TwoReaders()) == []


def test_training_mode_is_refused() -> None:
    traced = trace(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))).train()
    with pytest.raises(ValueError, match="evaluation mode"):
        fold_batch_norms(traced)
