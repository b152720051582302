"""Networks of many kinds, untrained."""

from itertools import pairwise

import torch
from torch import Tensor, nn


def centred(network: nn.Module, *shape: int) -> nn.Module:
    """The network with the bias of its last layer such that several classes occur."""
    head = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)][-1]
    with torch.no_grad():
        logits = network.eval()(torch.randn(64, *shape))
        head.bias.sub_(logits.transpose(0, 1).flatten(1).mean(dim=1))
    return network


def block(inside: int, outside: int, stride: int = 1) -> nn.Sequential:
    """Depthwise and pointwise convolution, as in DS-CNN (Zhang et al. 2017, Hello Edge)."""
    return nn.Sequential(
        *(nn.Conv2d(inside, inside, 3, stride, 1, groups=inside, bias=False), nn.BatchNorm2d(inside), nn.ReLU()),
        *(nn.Conv2d(inside, outside, 1, bias=False), nn.BatchNorm2d(outside), nn.ReLU()),
    )


def ds_cnn(num_classes: int) -> nn.Module:
    """Keyword spotting: spectrograms (n, 1, 49, 10)."""
    torch.manual_seed(0)
    first = nn.Sequential(nn.Conv2d(1, 16, (10, 4), 2, (5, 1), bias=False), nn.BatchNorm2d(16), nn.ReLU())
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, num_classes))
    return centred(nn.Sequential(first, block(16, 16), block(16, 16), head), 1, 49, 10)


def sensor_net(num_classes: int) -> nn.Module:
    """Sensors: (n, 6, 128)."""
    torch.manual_seed(0)
    layers = nn.Conv1d(6, 16, 5, padding=2), nn.BatchNorm1d(16), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 16, 5)
    head = nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, num_classes)
    return centred(nn.Sequential(*layers, *head), 6, 128)


def autoencoder() -> nn.Module:
    """Machine sounds: (n, 640) to (n, 640)."""
    torch.manual_seed(0)
    widths = (640, 128, 8, 128, 640)
    layers = [part for a, b in pairwise(widths) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(*layers[:-1])


class UNet(nn.Module):
    """Segmentation: (n, 3, height, width) to (n, classes, height, width)."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.down1, self.down2 = (
            nn.Sequential(nn.Conv2d(a, b, 3, padding=1), nn.BatchNorm2d(b), nn.ReLU()) for a, b in ((3, 8), (8, 16))
        )
        self.pool, self.up = nn.MaxPool2d(2), nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.join, self.head = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU()), nn.Conv2d(8, num_classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        wide = self.down1(x)
        deep = self.up(self.down2(self.pool(wide)))
        return self.head(self.join(torch.cat([wide, deep], dim=1)))


def unet(num_classes: int) -> nn.Module:
    torch.manual_seed(0)
    return centred(UNet(num_classes), 3, 16, 16)


class Detector(nn.Module):
    """Two heads: a box (n, 4) and scores (n, classes)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 8, 3, 2, 1), nn.ReLU())
        self.pool, self.boxes, self.scores = nn.AdaptiveAvgPool2d(2), nn.Linear(32, 4), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = self.pool(self.features(x)).flatten(1)
        return {"boxes": self.boxes(x), "scores": self.scores(x)}


def detector() -> nn.Module:
    torch.manual_seed(0)
    return Detector()


def uneven(num_classes: int = 10) -> nn.Module:
    """Pictures (n, 3, height, width); depthwise layers whose channels differ by powers of ten, which no grid of a whole
    tensor holds, as trained networks of this kind (EfficientNet-lite) have them."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 2, 1, bias=False)]
    for _ in range(3):
        expand, depthwise, project = nn.Conv2d(16, 64, 1), nn.Conv2d(64, 64, 3, 1, 1, groups=64), nn.Conv2d(64, 16, 1)
        scales = 10 ** (4 * torch.rand(64) - 2)
        with torch.no_grad():
            depthwise.weight.mul_(scales[:, None, None, None])
            depthwise.bias.mul_(scales)
            project.weight.div_(scales[None, :, None, None])
        layers += [expand, nn.ReLU6(), depthwise, nn.ReLU(), project]
    head = nn.Linear(16, num_classes)
    network = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).eval()
    with torch.no_grad():  # so that several classes occur
        blobs = nn.functional.interpolate(torch.randn(64, 3, 4, 4), scale_factor=8) + torch.randn(64, 3, 1, 1)
        head.bias.sub_(network(blobs).mean(dim=0))
    return network


class TwoInputs(nn.Module):
    """A picture (n, 3, 16, 16) and what is known of it beside (n, 5), to three classes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.pool, self.known = nn.Conv2d(3, 8, 3, 2, 1), nn.AdaptiveAvgPool2d(2), nn.Linear(5, 8)
        self.head = nn.Linear(40, 3)

    def forward(self, picture: Tensor, known: Tensor, scale: Tensor | None = None) -> Tensor:
        seen = self.pool(self.conv(picture).relu()).flatten(1)
        known = known if scale is None else known * scale
        return self.head(torch.cat([seen, self.known(known).relu()], dim=1))


def two_inputs() -> nn.Module:
    torch.manual_seed(0)
    return TwoInputs()
