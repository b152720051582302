"""Checkpoints as they are found: wrapped names, several sets, shards, and files that are no checkpoint."""

from __future__ import annotations

import json
import logging
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from quant_sweep.errors import InputError
from quant_sweep.models import load_weights, read_checkpoint


def small(outputs: int = 10, channels: int = 3) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(channels, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, outputs))


def saved(folder: Path, content: object, name: str = "a.pt") -> Path:
    torch.save(content, folder / name)
    return folder / name


def loaded(path: Path, key: str | None = None) -> nn.Sequential:
    model = small()
    load_weights(model, read_checkpoint(path, key), str(path), classes=10)
    return model


def equal(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    "prefix",
    ["model.", "net.", "backbone.", "_orig_mod.", "module.", "module._orig_mod.", "model.module.", "a.b.c."],
)
def test_a_beginning_that_makes_all_names_fit_is_left_out_and_said(
    tmp_path: Path, prefix: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    state = small().state_dict()
    path = saved(tmp_path, {"state_dict": {f"{prefix}{name}": value for name, value in state.items()}})
    assert equal(loaded(path), state)
    if not prefix.startswith(("module.", "_orig_mod.")):  # these are no part of any network
        assert f"the beginning {prefix!r} of its names is left out" in caplog.text


def test_other_tensors_are_ignored_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    state = small().state_dict()
    assert equal(loaded(saved(tmp_path, {**state, "n_averaged": torch.tensor(3)})), state)
    assert "1 other tensors in it are ignored (n_averaged)" in caplog.text
    lightning = {f"model.{name}": value for name, value in state.items()} | {"criterion.weight": torch.ones(10)}
    assert equal(loaded(saved(tmp_path, {"state_dict": lightning})), state)
    assert "ignored (criterion.weight)" in caplog.text


@pytest.mark.parametrize("prefix", ["", "model."])
def test_a_layer_too_many_is_no_wrapper(tmp_path: Path, prefix: str) -> None:
    state = small().state_dict() | {"4.weight": torch.ones(3, 3)}
    with pytest.raises(InputError, match=r"1 unexpected \(4\.weight\)"):
        loaded(saved(tmp_path, {f"{prefix}{name}": value for name, value in state.items()}))


def test_averaged_weights_beside_plain_ones(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    plain, averaged = small().state_dict(), small().state_dict()
    path = saved(tmp_path, {"state_dict": plain, "state_dict_ema": averaged, "optimizer": {"lr": 1.0}, "epoch": 3})
    assert equal(loaded(path), plain)
    assert "takes the weights under state_dict, not state_dict_ema" in caplog.text
    assert equal(loaded(path, "state_dict_ema"), averaged)
    for key in ("nonsense", "optimizer", "epoch.x"):
        with pytest.raises(InputError, match=f"^model.checkpoint_key={key}: .*are state_dict, state_dict_ema$"):
            loaded(path, key)
    both = {f"model.{name}": value for name, value in plain.items()}
    both |= {f"ema_model.{name}": value for name, value in averaged.items()}
    assert equal(loaded(saved(tmp_path, both)), plain)
    assert "more than one set of weights: 'model.' is taken" in caplog.text


def test_outputs_and_classes(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has 7 outputs, the images have 10 classes; choose the data"):
        loaded(saved(tmp_path, small(outputs=7).state_dict()))
    with pytest.raises(InputError, match=r"does not fit Sequential: .*1 mis-shaped \(0\.weight"):
        loaded(saved(tmp_path, small(channels=1).state_dict()))


def test_shards(tmp_path: Path) -> None:
    state = small().state_dict()
    names, index = list(state), tmp_path / "model.safetensors.index.json"
    parts = {"model-1.safetensors": names[:3], "model-2.safetensors": names[3:]}
    for file, part in parts.items():
        save_file({name: state[name] for name in part}, tmp_path / file)
    index.write_text(json.dumps({"weight_map": {name: file for file, part in parts.items() for name in part}}))
    assert equal(loaded(index), state)
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(InputError, match=r"model-2\.safetensors is missing beside it; all 2 files are needed"):
        loaded(index)
    for content, words in (('{"weight_map": {"a": "../x"}}', "files beside the index"), ("[]", "no weight_map")):
        index.write_text(content)
        with pytest.raises(InputError, match=words):
            loaded(index)


def test_what_is_no_checkpoint_is_named(tmp_path: Path) -> None:
    def refused(path: Path) -> str:
        with pytest.raises(InputError) as caught:
            read_checkpoint(path)
        return str(caught.value)

    torch.jit.script(nn.ReLU()).save(str(tmp_path / "script.pt"))
    assert "is a TorchScript program" in refused(tmp_path / "script.pt")
    assert "is a whole module (torch.nn.modules" in refused(saved(tmp_path, small()))
    (tmp_path / "a.onnx").write_bytes(b"\x08\x07\x12\x07pytorch")
    assert "is an ONNX model" in refused(tmp_path / "a.onnx")
    (tmp_path / "b.pt").write_bytes(b"\x08\x07\x12\x07pytorch")
    assert "is an ONNX model" in refused(tmp_path / "b.pt")
    with zipfile.ZipFile(tmp_path / "c.pt", "w") as archive:
        archive.writestr("x.txt", "x")
    assert "is a zip archive" in refused(tmp_path / "c.pt")
    for start, words in ((b"\x89HDF\r\n", "HDF5"), (b"<!DOCTYPE html>", "web page"), (b"version https", "Git LFS")):
        (tmp_path / "d.pt").write_bytes(start)
        assert words in refused(tmp_path / "d.pt")
