"""Views, tuples and aliases of tensors that quantized networks hold in another order of memory, in all engines."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from exact_kernels import needs_int8
from networks import called, held_against_the_model, random_images
from torch import Tensor, nn

pytestmark = needs_int8


class Reads(nn.Module):
    """A convolution, an operation that leaves 8 features, a head."""

    def __init__(self, operation: Callable[..., Tensor], **parts: nn.Module) -> None:
        super().__init__()
        self.operation, self.conv, self.head = operation, nn.Conv2d(3, 8, 3), nn.LazyLinear(5)
        for name, part in parts.items():
            self.add_module(name, part)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(called(self.operation, self, F.relu(self.conv(x))))  # (n, 8, 6, 6)


class Pair(nn.Module):
    def forward(self, y: Tensor) -> tuple[Tensor, Tensor]:
        return y, F.avg_pool2d(y, 3, 1, 1)


class LeNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head = nn.Conv2d(3, 6, 3), nn.Conv2d(6, 16, 2), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = F.max_pool2d(F.relu(self.a(x)), 2)
        x = F.max_pool2d(F.relu(self.b(x)), 2)
        return self.head(x.view(x.size(0), -1))


def shuffled(y: Tensor) -> Tensor:
    n, c, h, w = y.shape
    return y.view(n, 2, c // 2, h, w).transpose(1, 2).contiguous().view(n, c, h, w)


def windows(y: Tensor) -> Tensor:
    """As window attention cuts them out: images become several."""
    n, c, h, w = y.shape
    y = y.view(n, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, c)
    return y.softmax(1).view(n, -1, c).mean(1)


VIEWS = {
    "LeNet": LeNet(),
    "view": Reads(lambda y: y.view(y.size(0), -1)),
    "view of rows": Reads(lambda y: y.view(-1, 288)),
    "view, then a layer": Reads(
        lambda m, y: F.relu(m.more(y.view(y.shape[0], 8, 36))).flatten(1), more=nn.Conv1d(8, 4, 3)
    ),
    "reshape of channels last": Reads(lambda y: y.permute(0, 2, 3, 1).reshape(y.shape[0], -1)),
    "a layer over the last axis": Reads(lambda m, y: m.mix(y.permute(0, 2, 3, 1)).mean((1, 2)), mix=nn.Linear(8, 8)),
    "channels shuffled": Reads(lambda m, y: m.more(shuffled(y)).flatten(1), more=nn.Conv2d(8, 4, 3, groups=4)),
    "windows": Reads(lambda y: windows(y)),
    "images as channels and back": Reads(lambda y: y.reshape(1, -1, 6, 6).reshape(-1, 8, 6, 6).flatten(1)),
    "unfolded": Reads(
        lambda m, y: m.more(y.unfold(2, 3, 3).reshape(y.size(0), 8, -1)).mean(2), more=nn.Conv1d(8, 4, 3)
    ),
    "strided by hand": Reads(
        lambda y: torch.cat([y[..., ::2, ::2], y[..., 1::2, ::2], y[..., 1::2, 1::2]], 1).flatten(1)
    ),
    "focus of the images": nn.Sequential(
        nn.PixelUnshuffle(2), nn.Conv2d(12, 8, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)
    ),
    "expanded": Reads(lambda y: (y.mean((2, 3), keepdim=True).expand_as(y) + y).flatten(1)),
    "sequence of columns": Reads(lambda m, y: m.more(y.flatten(2).mT).flatten(1), more=nn.Linear(8, 4)),
    "memory order of a convolution": Reads(
        lambda m, y: m.more(y.to(memory_format=torch.channels_last)).flatten(1), more=nn.Conv2d(8, 4, 1)
    ),
}

TUPLES = {
    "max()[0]": Reads(lambda y: torch.max(y.flatten(2), 2)[0]),
    "max().values": Reads(lambda y: y.flatten(2).max(2).values),
    "min and max": Reads(lambda y: torch.cat(torch.aminmax(y.flatten(2), dim=2), 1)),
    "topk()[0]": Reads(lambda y: y.flatten(2).topk(2, 2)[0].flatten(1)),
    "sort, both": Reads(lambda y: (lambda s: s[0] + (s[1] >= 0).float())(y.flatten(2).sort(2)).flatten(1)),
    "var_mean": Reads(lambda y: torch.cat(torch.var_mean(y, (2, 3)), 1)),
    "chunks": Reads(lambda y: (lambda a, b: a.flatten(1) * torch.sigmoid(b.flatten(1)))(*y.chunk(2, 1))),
    "split, added": Reads(
        lambda m, y: (lambda a, b: F.relu(a + b).flatten(1))(*m.more(y).split(4, 1)), more=nn.Conv2d(8, 8, 1)
    ),
    "split, each to a layer": Reads(
        lambda m, y: torch.cat(
            [layer(part) for layer, part in zip((m.p, m.q), y.split([3, 5], 1), strict=True)], 1
        ).flatten(1),
        p=nn.Conv2d(3, 4, 1),
        q=nn.Conv2d(5, 4, 1),
    ),
    "unbind": Reads(lambda y: torch.stack([torch.relu(row) for row in y.unbind(2)[::2]], 1).flatten(1)),
    "max-pooling with its indices": Reads(
        lambda y: F.max_unpool2d(*F.max_pool2d(y, 2, return_indices=True), 2).flatten(1)
    ),
    "LSTM": Reads(lambda m, y: m.rnn(y.flatten(2).mT)[0][:, -1], rnn=nn.LSTM(8, 8, batch_first=True)),
    "LSTM's state": Reads(lambda m, y: m.rnn(y.flatten(2).mT)[1][0][0], rnn=nn.LSTM(8, 8, batch_first=True)),
    "attention's first": Reads(
        lambda m, y: (lambda s: m.attend(s, s, s)[0].mean(1))(y.flatten(2).mT),
        attend=nn.MultiheadAttention(8, 2, batch_first=True),
    ),
    "a tuple passed on": Reads(lambda m, y: sum(m.pair(y)).flatten(1), pair=Pair()),
    "meshgrid": Reads(
        lambda y: (y * torch.stack(torch.meshgrid(torch.arange(6.0), torch.arange(6.0), indexing="ij")).sum(0)).flatten(
            1
        )
    ),
}

ALIASES = {
    "F.leaky_relu_": Reads(lambda m, y: (m.more(F.leaky_relu_(y - 0.5, 0.1)) + y).flatten(1), more=nn.Conv2d(8, 8, 1)),
    "ReLU in place, read again": Reads(
        lambda m, y: (lambda z: (m.more(F.relu_(z)) + z).flatten(1))(m.more(y)), more=nn.Conv2d(8, 8, 1)
    ),
    "clamp_ of a residual": Reads(
        lambda m, y: (lambda z: (m.more(z.clamp_(0, 1)) + z).flatten(1))(m.more(y)), more=nn.Conv2d(8, 8, 1)
    ),
    "+= onto a residual": Reads(
        lambda m, y: (lambda z: z.__iadd__(y).relu_().flatten(1))(m.more(y)), more=nn.Conv2d(8, 8, 1)
    ),
    "a part overwritten": Reads(
        lambda m, y: (lambda z: (z[:, :4].mul_(2), z)[1].flatten(1))(m.more(y)), more=nn.Conv2d(8, 8, 1)
    ),
    "chunks overwritten": Reads(
        lambda m, y: (lambda z: (z.chunk(2, 1)[1].relu_(), m.more(z))[1].flatten(1))(m.more(y)), more=nn.Conv2d(8, 8, 1)
    ),
    "masked_fill_": Reads(lambda m, y: m.more(m.more(y).masked_fill_(y > 1, 0.25)).flatten(1), more=nn.Conv2d(8, 8, 1)),
    "out=": Reads(
        lambda m, y: (lambda z: torch.add(y, m.more(y), out=z))(torch.empty_like(y)).flatten(1), more=nn.Conv2d(8, 8, 1)
    ),
    "elu_ of a view": Reads(
        lambda m, y: (lambda z: (F.elu_(z.flatten(1)), z)[1].flatten(1))(m.more(y)), more=nn.Conv2d(8, 8, 1)
    ),
    "sigmoid_ after a copy": Reads(
        lambda m, y: (lambda z: (z.clone().sigmoid_() * z).flatten(1))(m.more(y)), more=nn.Conv2d(8, 8, 1)
    ),
}


@pytest.mark.parametrize("name", VIEWS)
def test_views(name: str) -> None:
    _check(VIEWS[name])


@pytest.mark.parametrize("name", TUPLES)
def test_elements_of_tuples(name: str) -> None:
    _check(TUPLES[name])


@pytest.mark.parametrize("name", ALIASES)
def test_aliases(name: str) -> None:
    _check(ALIASES[name])


def _check(model: nn.Module) -> None:
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Conv1d | nn.Linear) and not isinstance(module, nn.LazyLinear):
            module.reset_parameters()
    with torch.no_grad():
        model.eval()(random_images())
    held_against_the_model(model, random_images())
