"""From config nodes to objects: only of this package, once per process, finite."""

from pathlib import Path

import pytest
import torch
from configured import RESNET8, composed
from omegaconf import OmegaConf

from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion
from quant_sweep.models import write_checkpoint
from quant_sweep.models.cifar_resnet import CifarResNet
from quant_sweep.observers import FakeHist
from quant_sweep.sweep import build as build_module
from quant_sweep.sweep.build import build, load_data, load_model, plain, resolve_device


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    path = tmp_path / "w.safetensors"
    write_checkpoint(path, CifarResNet(1, num_classes=10, in_channels=1).state_dict(), {})
    return path


def test_builds_what_is_named() -> None:
    node = {"_target_": "quant_sweep.observers.FakeHist", "name": "fake_hist", "percentile": 99.0, "momentum": 0.5}
    assert build("observer", node) == FakeHist(99.0, 0.5)


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "quant_sweepx.observers.MinMax",
        "quant_sweep",
        "",
        None,
        "quant_sweep.models.checkpoint.os.system",
        "quant_sweep.sweep.build.importlib.import_module",
        "quant_sweep.sweep.build.Path",
    ],
)
def test_builds_nothing_from_elsewhere(target: str | None, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"observer\._target_="):
        build("observer", {"_target_": target, "command": "echo executed"})
    assert "executed" not in capfd.readouterr().out


def test_nested_targets_are_plain_values(tmp_path: Path) -> None:
    made = tmp_path / "made"
    nested = {"_target_": "os.mkdir", "path": str(made)}
    with pytest.raises(InputError):
        build("observer", {"_target_": "quant_sweep.observers.FakeHist", "percentile": nested})
    assert not made.exists()


@pytest.mark.parametrize("target", ["quant_sweep.observers.Nonsense", "quant_sweep.nonsense.MinMax"])
def test_a_name_that_is_not_there(target: str) -> None:
    with pytest.raises(InputError, match=rf"observer\._target_=.?{target}"):
        build("observer", {"_target_": target})


def test_messages_name_the_key() -> None:
    with pytest.raises(InputError, match=r"^observer\.percentile=0"):
        build("observer", {"_target_": "quant_sweep.observers.FakeHist", "percentile": 0})
    with pytest.raises(InputError, match=r"^observer.*unexpected keyword argument 'nonsense'"):
        build("observer", {"_target_": "quant_sweep.observers.FakeHist", "nonsense": 1})


@pytest.mark.parametrize("value", ["x", None, [1]])
def test_a_parameter_of_the_wrong_kind(value: object) -> None:
    with pytest.raises(InputError, match=r"^observer\.percentile="):
        build("observer", {"_target_": "quant_sweep.observers.FakeHist", "percentile": value})


def test_plain_resolves_and_wants_everything() -> None:
    node = OmegaConf.create({"a": 1, "b": "${a}", "c": {"d": [1, {"e": "${b}"}]}})
    assert plain(node) == {"a": 1, "b": 1, "c": {"d": [1, {"e": 1}]}}
    with pytest.raises(InputError, match=r"^model\.factory=\?\?\?: it must be given"):
        plain(OmegaConf.create({"model": {"factory": "???"}}))


def test_enums_become_their_values() -> None:
    settings = plain(composed("bits=5", "fusion=bn"))
    assert settings["bits"] == settings["weight_bits"] == 5
    assert settings["fusion"] == "bn"
    assert settings["device"] == "auto"


def test_data_and_model_are_built_once(tmp_path: Path, checkpoint: Path) -> None:
    cfg = composed(*RESNET8, f"outputs_dir={tmp_path}", f"model.checkpoint={checkpoint}")
    data = load_data(plain(cfg.data))
    assert load_data(plain(composed(f"outputs_dir={tmp_path}", "bits=3").data)) is data
    model = load_model(plain(cfg.model), data)
    assert load_model(plain(cfg.model), data) is model
    assert not model.module.training
    assert model.graph(Fusion.bn) is model.graph(Fusion.bn)
    other = load_data(plain(composed(f"outputs_dir={tmp_path}", "data.seed=3").data))
    assert other.fingerprint != data.fingerprint


def test_digest_is_that_of_weights_and_code(tmp_path: Path, checkpoint: Path) -> None:
    cfg = composed(*RESNET8, f"outputs_dir={tmp_path}", f"model.checkpoint={checkpoint}")
    data = load_data(plain(cfg.data))
    first = load_model(plain(cfg.model), data).digest
    build_module._trained.cache_clear()
    assert load_model(plain(cfg.model), data).digest == first
    state = CifarResNet(1, num_classes=10, in_channels=1).state_dict()
    write_checkpoint(tmp_path / "v.safetensors", state, {})
    cfg = composed(*RESNET8, f"outputs_dir={tmp_path}", f"model.checkpoint={tmp_path}/v.safetensors")
    assert load_model(plain(cfg.model), data).digest != first


def test_digest_tells_layers_apart_that_share_their_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "strided.py").write_text(
        "from torch import nn\n"
        "def build(num_classes, in_channels, stride):\n"
        "    conv = nn.Conv2d(in_channels, num_classes, 3, stride, bias=False)\n"
        "    nn.init.ones_(conv.weight)\n"
        "    return nn.Sequential(conv, nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    data = load_data(plain(composed(f"outputs_dir={tmp_path}").data))

    def digest(stride: int) -> str:
        build_module._trained.cache_clear()
        model = composed("model=custom", "model.factory=strided:build", f"+model.kwargs.stride={stride}").model
        return load_model(plain(model), data).digest

    assert digest(1) == digest(1)
    assert digest(1) != digest(2)


def test_weights_must_come_from_somewhere(tmp_path: Path) -> None:
    data = load_data(plain(composed(f"outputs_dir={tmp_path}").data))
    with pytest.raises(InputError, match=r"model\.checkpoint=null: .*give a file"):
        load_model(plain(composed("model.checkpoint=null").model), data)
    with pytest.raises(InputError, match=r"model\.weights=DEFAULT"):
        load_model(plain(composed("model=torchvision").model), data)


def test_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert resolve_device("auto").type == resolve_device("cpu").type == "cpu"
    with pytest.raises(InputError, match=r"device=cuda: .*allowed are cpu and auto"):
        resolve_device("cuda")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert resolve_device("auto").type == resolve_device("cuda").type == "cuda"
    assert resolve_device("cpu").type == "cpu"
