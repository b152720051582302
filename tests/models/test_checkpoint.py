"""Weights on disk: what is read, what is refused, and that nothing in a file runs."""

import copy
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from small_networks import same_weights
from torch import nn

from quant_sweep.errors import InputError
from quant_sweep.models import resnet20, resnet32
from quant_sweep.models.checkpoint import (
    load_weights,
    read_checkpoint,
    read_written,
    write_checkpoint,
)


def small() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def message_of(call: Callable[[], object]) -> str:
    with pytest.raises(InputError) as error:
        call()
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("nested", [None, "state_dict", "model", "model_state_dict", "net"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_reads_what_training_scripts_write(tmp_path: Path, nested: str | None, prefix: str) -> None:
    state = small().state_dict()
    stored: Any = {prefix + name: value for name, value in state.items()}
    torch.save({nested: stored, "epoch": 3, "best": 91.7} if nested else stored, tmp_path / "a.pt")
    read = read_checkpoint(tmp_path / "a.pt")
    assert list(read) == list(state)
    assert all(torch.equal(read[name], state[name]) for name in state)


def test_prefix_that_only_some_names_have_stays(tmp_path: Path) -> None:
    torch.save({"module.a": torch.ones(1), "b": torch.ones(1)}, tmp_path / "a.pt")
    assert set(read_checkpoint(tmp_path / "a.pt")) == {"module.a", "b"}


def test_safetensors_by_suffix_and_by_content(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.arange(3.0)}, tmp_path / "a.safetensors")
    (tmp_path / "b.bin").write_bytes((tmp_path / "a.safetensors").read_bytes())
    for name in ("a.safetensors", "b.bin"):
        assert torch.equal(read_checkpoint(tmp_path / name)["a"], torch.arange(3.0))


class TouchesAFile:
    """Unpickling this creates a file: the proof that code from the file ran."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("form", ["zip", "legacy", "pickle", "renamed"])
def test_code_in_a_pickle_does_not_run(tmp_path: Path, form: str) -> None:
    proof = tmp_path / "proof"
    path = tmp_path / ("a.safetensors" if form == "renamed" else "a.pt")
    stored = {"state_dict": small().state_dict(), "extra": TouchesAFile(proof)}
    if form == "pickle":
        path.write_bytes(pickle.dumps(stored, protocol=2))
    else:
        torch.save(stored, path, _use_new_zipfile_serialization=form == "zip")
    assert f"model.checkpoint={path}: " in message_of(lambda: read_checkpoint(path))
    assert not proof.exists()
    if form in ("zip", "legacy"):
        assert "posix.system" in message_of(lambda: read_checkpoint(path))


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.9999])
def test_truncated_file(tmp_path: Path, form: str, kept: float) -> None:
    whole = tmp_path / "whole"
    if form == "safetensors":
        safetensors.torch.save_file(small().state_dict(), whole)
    else:
        torch.save(small().state_dict(), whole, _use_new_zipfile_serialization=form == "zip")
    content = whole.read_bytes()
    path = tmp_path / "a.ckpt"
    path.write_bytes(content[: int(kept * len(content))])
    assert message_of(lambda: read_checkpoint(path)).startswith(f"model.checkpoint={path}: ")


def test_missing_file_and_folder(tmp_path: Path) -> None:
    assert "no such file" in message_of(lambda: read_checkpoint(tmp_path / "none.pt"))
    assert "no such file" in message_of(lambda: read_checkpoint(tmp_path))


@pytest.mark.parametrize("stored", [{}, {"epoch": 3}, {"state_dict": {}}, [1, 2], "text"])
def test_file_without_tensors(tmp_path: Path, stored: Any) -> None:
    torch.save(stored, tmp_path / "a.pt")
    assert "holds no tensors" in message_of(lambda: read_checkpoint(tmp_path / "a.pt"))


def test_load_copies_every_value_and_tolerates_missing_counters() -> None:
    torch.manual_seed(1)
    source, target = resnet20(num_classes=10, in_channels=3), resnet20(num_classes=10, in_channels=3)
    state = {name: value for name, value in source.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert not same_weights(source, target)
    load_weights(target, state, "somewhere")
    assert same_weights(source, target)


def test_wrong_architecture_gets_a_summary() -> None:
    state = resnet32(num_classes=100, in_channels=3).state_dict()
    text = message_of(lambda: load_weights(resnet20(num_classes=10, in_channels=3), state, "x.pt"))
    assert text.startswith("model.checkpoint=x.pt: does not fit CifarResNet: 0 missing; ")
    assert "72 unexpected (layer1.3.conv1.weight, layer1.3.bn1.weight, layer1.3.bn1.bias, ...)" in text
    assert "2 mis-shaped (linear.weight is (100, 64) float, must be (10, 64) float, linear.bias" in text
    missing = message_of(lambda: load_weights(small(), {"0.weight": torch.ones(4, 3, 3, 3)}, "x.pt"))
    assert "5 missing (0.bias, 1.weight, 1.bias, ...); 0 unexpected; 0 mis-shaped" in missing


def test_integer_weights_are_not_float_weights() -> None:
    state = small().state_dict()
    state["0.weight"] = torch.ones(4, 3, 3, 3, dtype=torch.int8)
    assert "0.weight is (4, 3, 3, 3) integer, must be" in message_of(lambda: load_weights(small(), state, "x.pt"))


@pytest.mark.parametrize("value", [float("nan"), float("-inf"), 1e300])  # the last one overflows in float32
def test_values_that_are_not_finite(value: float) -> None:
    model = small()
    before = copy.deepcopy(model)
    state = {name: t.double() if t.is_floating_point() else t for name, t in small().state_dict().items()}
    state["1.running_var"][2] = value
    assert "1.running_var holds 1 NaN or infinite" in message_of(lambda: load_weights(model, state, "x.pt"))
    assert same_weights(model, before), "a refused checkpoint must leave the model alone"


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(0, 4), max_size=4),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.int64, torch.uint8, torch.bool]),
)
def test_write_then_read_gives_the_same(
    tmp_path_factory: pytest.TempPathFactory, shape: list[int], dtype: torch.dtype
) -> None:
    path = tmp_path_factory.mktemp("w") / "a.safetensors"
    tensor = (torch.rand(shape) * 100).to(dtype)
    write_checkpoint(path, {"a": tensor, "shared": tensor}, {"epoch": "3"})
    read = read_checkpoint(path)
    assert read["a"].dtype == dtype
    assert torch.equal(read["a"], tensor)
    assert torch.equal(read["shared"], tensor)
    written = read_written(path)
    assert written is not None
    assert written.text == {"epoch": "3"}
    assert os.listdir(path.parent) == ["a.safetensors"]


@pytest.mark.parametrize("place", [-1, 100], ids=["weight", "metadata"])
def test_a_changed_byte_in_a_file_of_ours_is_noticed(tmp_path: Path, place: int) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"a": torch.ones(2)}, {"best": "3"})
    raw = bytearray(path.read_bytes())
    raw[place] ^= 1
    path.write_bytes(raw)
    assert message_of(lambda: read_checkpoint(path)).startswith(f"model.checkpoint={path}: ")


def test_a_file_of_somebody_else_is_read_as_it_is(tmp_path: Path) -> None:
    safetensors.torch.save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert read_written(tmp_path / "a.safetensors") is None
    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors")["a"], torch.ones(2))


def test_write_takes_channels_last_weights(tmp_path: Path) -> None:
    weight = torch.rand(4, 3, 3, 3).to(memory_format=torch.channels_last)
    write_checkpoint(tmp_path / "a.safetensors", {"w": weight}, {})
    assert torch.equal(read_checkpoint(tmp_path / "a.safetensors")["w"], weight)


def test_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_checkpoint(path, {"a": torch.ones(2)}, {})
    with pytest.raises(ValueError, match="NaN"):
        write_checkpoint(path, {"a": torch.tensor([1.0, float("nan")])}, {})

    def full(_descriptor: int) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        write_checkpoint(path, {"a": torch.zeros(2)}, {})
    assert torch.equal(read_checkpoint(path)["a"], torch.ones(2))
    assert os.listdir(tmp_path) == ["a.safetensors"]
