"""PyTorch's own flow: real integer modules, near float, honest about what it decided."""

import platform

import pytest
import torch
from small_networks import cifar_resnet20, images, tiny

from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.engines import Builtin
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, capture

OBSERVERS = ["minmax", "hist", "moving_average"]


@pytest.fixture(scope="module")
def batches() -> list[torch.Tensor]:
    return [images(8, seed=seed) for seed in range(2)]


@pytest.mark.parametrize("observer", OBSERVERS)
def test_converted_network_is_integer_and_near_float(observer: str, batches: list[torch.Tensor]) -> None:
    model = cifar_resnet20()
    network, _ = Builtin().quantize(model, lambda: batches, observer)
    kinds = [type(module).__module__ for module in network.modules()]
    quantized = [kind for kind in kinds if kind.startswith("torch.ao.nn")]
    assert len(quantized) >= 20, "19 convolutions and a linear layer"
    assert not any(isinstance(module, torch.nn.Conv2d | torch.nn.BatchNorm2d) for module in network.modules())
    with torch.no_grad():
        logits, original = network(images(8)), model(images(8))
    assert logits.dtype == torch.float32
    assert float((logits - original).norm() / original.norm()) < 0.15


def test_names_of_its_grids(batches: list[torch.Tensor]) -> None:
    _, qparams = Builtin().quantize(tiny(), lambda: batches, "minmax")
    assert "input" in qparams
    assert "conv1.output" in qparams
    weights = {name: grid for name, grid in qparams.items() if name.endswith(".weight")}
    activations = {name: grid for name, grid in qparams.items() if name == "input" or name.endswith(".output")}
    assert weights.keys() == {q.name for q in capture(tiny(), batches[0], Fusion.conv_bn_relu).weights}
    assert qparams.keys() == weights.keys() | activations.keys()
    seen = torch.cat(batches)
    levels = 127 if Builtin().reduce_range else 255
    width = float(seen.max() - seen.min())
    assert float(qparams["input"].scale) == pytest.approx(width / levels, rel=1e-5)
    bits = 7 if Builtin().reduce_range else 8
    assert all(grid.spec.bits == bits and grid.scale.dim() == 0 for grid in activations.values())
    assert all(grid.spec == QuantSpec(8, True, True, channel_axis=0) for grid in weights.values())
    assert all(grid.scale.dim() == 1 for grid in weights.values())
    assert "relu_1.output" in activations
    assert not any("<" in name for name in activations), "a function has its node's name"


def test_model_is_not_changed(batches: list[torch.Tensor]) -> None:
    model = tiny()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    names = [name for name, _ in model.named_modules()]
    Builtin().quantize(model, lambda: batches, "minmax")
    assert [name for name, _ in model.named_modules()] == names
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("observer", ["mse", "entropy", "fake_hist", "nonsense"])
def test_observers_that_torch_does_not_have_are_refused(observer: str) -> None:
    with pytest.raises(InputError, match=f"observer={observer}: .*allowed are minmax, hist, moving_average"):
        Builtin().check(observer)
    with pytest.raises(InputError, match="observer="):
        Builtin().quantize(tiny(), lambda: [images(2)], observer)


def test_no_batch() -> None:
    with pytest.raises(InputError, match="at least one batch"):
        Builtin().quantize(tiny(), list, "minmax")


@pytest.mark.parametrize(
    ("machine", "vnni", "reduced"),
    [("x86_64", True, False), ("x86_64", False, True), ("AMD64", False, True), ("aarch64", False, False)],
)
def test_half_the_grid_where_the_cpu_would_saturate(
    machine: str, vnni: bool, reduced: bool, monkeypatch: pytest.MonkeyPatch, batches: list[torch.Tensor]
) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.cpu, "_is_vnni_supported", lambda: vnni)
    engine = Builtin()
    assert engine.facts()["reduce_range"] is reduced
    _, qparams = engine.quantize(tiny(), lambda: batches, "minmax")
    seen = torch.cat(batches)
    assert float(qparams["input"].scale) == pytest.approx(
        float(seen.max() - seen.min()) / (127 if reduced else 255), rel=1e-5
    )
    assert qparams["input"].spec.bits == (7 if reduced else 8)
