"""Running again with other modules: the same as building that network, and only what changes is computed."""

import copy

import pytest
import torch
from small_networks import cifar_resnet20, images, tiny
from torch import Tensor, nn

from quant_sweep.graph import Fusion, quantizable
from quant_sweep.graph.rerun import rerun, run


class Halve(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) / 2


@pytest.mark.parametrize("make", [tiny, cifar_resnet20], ids=lambda make: make.__name__)
def test_like_a_network_built_so(make) -> None:
    network, batch = quantizable(make(), Fusion.conv_bn_relu).module, images(2)
    with torch.no_grad():
        output, values = run(network, batch)
        assert torch.equal(output, network(batch))
        paths = [path for path, module in network.named_modules() if isinstance(module, nn.Conv2d | nn.Linear)]
        for replaced in ([], *([path] for path in paths), paths):
            built = copy.deepcopy(network)
            for path in replaced:
                built.set_submodule(path, Halve(built.get_submodule(path)))
            again = rerun(network, {path: Halve(network.get_submodule(path)) for path in replaced}, values)
            assert torch.equal(again, built(batch))
        assert torch.equal(run(network, batch)[0], output)


def test_only_what_changes_is_computed() -> None:
    network, calls = quantizable(tiny(), Fusion.conv_bn_relu).module, []
    for path in ("conv1", "conv2", "linear"):
        network.get_submodule(path).register_forward_hook(lambda *_, path=path: calls.append(path))
    with torch.no_grad():
        _, values = run(network, images(2))
        assert calls == ["conv1", "conv2", "linear"]
        calls.clear()
        rerun(network, {"conv2": network.get_submodule("conv2")}, values)
    assert calls == ["conv2", "linear"]
