"""The CIFAR ResNets: the paper's sizes, names that published checkpoints have, any input size, capturable."""

import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from quant_sweep import models
from quant_sweep.graph import Network, capture_float
from quant_sweep.models.checkpoint import load_weights, read_checkpoint
from quant_sweep.models.cifar_resnet import ZeroPadShortcut

CHECKPOINTS = Path(__file__).parents[2].parent / "shared" / "checkpoints"


# parameters: He et al. 2015, table 6, in millions
@pytest.mark.parametrize(
    ("name", "layers", "millions"),
    [
        ("resnet20", 20, 0.27),
        ("resnet32", 32, 0.46),
        ("resnet44", 44, 0.66),
        ("resnet56", 56, 0.85),
        ("resnet110", 110, 1.7),
    ],
)
def test_size_is_the_papers(name: str, layers: int, millions: float) -> None:
    model = getattr(models, name)(num_classes=10, in_channels=3)
    weighted = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weighted) == layers
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.025)


@pytest.mark.parametrize(("channels", "size"), [(3, 32), (1, 8), (3, 7), (1, 28), (2, 1)])
def test_any_size_and_channels(channels: int, size: int) -> None:
    model = models.resnet20(num_classes=7, in_channels=channels).eval()
    assert model(torch.rand(2, channels, size, size)).shape == (2, 7)


def test_capture_keeps_the_output_and_names_every_activation() -> None:
    model = models.resnet20(num_classes=10, in_channels=3).eval()
    images = torch.rand(2, 3, 32, 32)
    graph = capture_float(model, images).graph
    assert torch.equal(Network(graph)(images), model(images))
    numbered = [name for name in graph.node if re.search(r"_\d+\.output$", name)]
    assert numbered == ["layer2.0.shortcut.slice_1.output", "layer3.0.shortcut.slice_1.output"], (
        "a module that is called twice has no name of its own for each tensor"
    )
    modules = {"relu", "layer1.0.relu1", "layer1.0.relu2", "layer3.2.relu2", "avgpool", "linear"}
    assert {f"{module}.output" for module in modules} <= set(graph.node)


def test_shortcut_takes_every_second_pixel_between_zero_channels() -> None:
    images = torch.rand(2, 16, 5, 4)
    out = ZeroPadShortcut(16)(images)
    assert out.shape == (2, 32, 3, 2)
    assert torch.equal(out[:, 8:24], images[:, :, ::2, ::2])
    assert not out[:, :8].any()
    assert not out[:, 24:].any()


def test_block_adds_the_shortcut_before_the_last_relu() -> None:
    block = models.resnet20(num_classes=10, in_channels=3).eval().layer2[0]
    x = torch.randn(2, 16, 8, 8)
    inner = block.bn2(block.conv2(F.relu(block.bn1(block.conv1(x)))))
    shortcut = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 8, 8))
    assert torch.equal(block(x), F.relu(inner + shortcut))


@pytest.mark.parametrize(("name", "file"), [("resnet20", "resnet20-12fca82f.th"), ("resnet32", "resnet32-d509ac18.th")])
def test_published_checkpoint_loads_as_it_is(name: str, file: str) -> None:
    path = CHECKPOINTS / file
    if not path.exists():
        pytest.skip(f"{file} is not here")
    model = getattr(models, name)(num_classes=10, in_channels=3)
    state = read_checkpoint(path)
    load_weights(model, state, str(path))
    own = model.state_dict()
    assert all(torch.equal(own[key], value) for key, value in state.items())
    assert {key for key in own if key not in state} == {key for key in own if key.endswith("num_batches_tracked")}
