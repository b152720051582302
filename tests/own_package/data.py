"""Data of many kinds, generated. Labels are mostly what the untrained networks say in float."""

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, TensorDataset

from own_package import nets

Split = tuple[Tensor, Tensor]
COUNT = 64


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(COUNT, *shape, generator=torch.Generator().manual_seed(seed))


@torch.no_grad()
def said(network: nn.Module, inputs: Tensor) -> Tensor:
    """What a network says, but of every tenth sample, which is the class before."""
    labels = network.eval()(inputs).argmax(dim=1)
    labels[::10] = (labels[::10] - 1).clamp(min=0)
    return labels


def spectrograms() -> tuple[Dataset, Dataset]:
    """Datasets of (input, label)."""
    network = nets.ds_cnn(12)
    splits = [noise(1, 49, 10, seed=seed) for seed in (0, 1)]
    train, test = (TensorDataset(inputs, said(network, inputs)) for inputs in splits)
    return train, test


def sensors() -> tuple[Split, Split]:
    """Pairs of tensors."""
    train, test = ((inputs, said(nets.sensor_net(5), inputs)) for inputs in (noise(6, 128, seed=s) for s in (0, 1)))
    return train, test


def sounds() -> tuple[Tensor, Tensor]:
    """Inputs alone: without labels."""
    return noise(640, seed=0), noise(640, seed=1)


def scenes() -> tuple[Split, Split]:
    """Pictures, and a class for each of their pixels."""
    train, test = ((inputs, said(nets.unet(4), inputs)) for inputs in (noise(3, 16, 16, seed=s) for s in (0, 1)))
    return train, test


def boxes() -> tuple[Split, Split]:
    """Pictures, and a box for each, (n, 4)."""
    splits = [noise(3, 16, 16, seed=seed) for seed in (0, 1)]
    with torch.no_grad():
        train, test = ((inputs, nets.detector().eval()(inputs)["boxes"] + 0.1) for inputs in splits)
    return train, test


def pairs() -> tuple[list[tuple[tuple[Tensor, Tensor], None]], list[tuple[tuple[Tensor, Tensor], None]]]:
    """Items of two inputs, without labels."""
    splits = [(noise(3, 16, 16, seed=seed), 100 * noise(5, seed=seed)) for seed in (0, 1)]
    train, test = ([((a, b), None) for a, b in zip(*split, strict=True)] for split in splits)
    return train, test
