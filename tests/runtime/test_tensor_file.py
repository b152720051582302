"""A cache file gives back what was written, bit for bit, or nothing: one changed bit anywhere makes it nothing."""

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from quant_sweep.runtime.tensor_file import digest_of, is_of_write_tensors, read_tensors, write_tensors, writing_rows

TEXT = {"names": '["é", "b"]', "empty": ""}


def tensors() -> dict[str, Tensor]:
    return {
        "bytes": torch.arange(6, dtype=torch.uint8).view(2, 3),
        "half": torch.tensor([1.5, -0.0], dtype=torch.bfloat16),
        "flags": torch.tensor([True, False]),
        "scalar": torch.tensor(7),
        "nothing": torch.zeros(0, 3),
        "transposed": torch.arange(6.0).view(2, 3).t(),
        "not finite": torch.tensor([float("nan"), float("inf")], dtype=torch.float64),
    }


def bits(tensor: Tensor) -> list[int]:
    return tensor.contiguous().reshape(-1).view(torch.uint8).tolist()


def test_what_is_read_is_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, tensors(), TEXT)
    stored = read_tensors(path)
    assert stored is not None
    assert stored.text == TEXT
    assert stored.digest == digest_of(tensors(), TEXT)
    assert set(stored.tensors) == set(tensors())
    for name, tensor in tensors().items():
        found = stored.tensors[name]
        assert (found.dtype, found.shape, bits(found)) == (tensor.dtype, tensor.shape, bits(tensor))
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_damaged_file_is_still_known_as_ours(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", tensors(), TEXT)
    assert is_of_write_tensors(tmp_path / "a")
    (tmp_path / "renamed").write_bytes((tmp_path / "a").read_bytes().replace(b"quant_sweep", b"quant_sweeq"))
    assert read_tensors(tmp_path / "renamed") is None
    assert is_of_write_tensors(tmp_path / "renamed")
    without_entry(tmp_path / "b")
    assert not is_of_write_tensors(tmp_path / "b")
    entry_is_no_object(tmp_path / "c")
    assert is_of_write_tensors(tmp_path / "c")
    with pytest.raises((SafetensorError, OSError)):
        is_of_write_tensors(tmp_path / "none")


def test_equal_contents_give_equal_files(tmp_path: Path) -> None:
    write_tensors(tmp_path / "a", tensors(), TEXT)
    write_tensors(tmp_path / "b", dict(reversed(tensors().items())), dict(reversed(TEXT.items())))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_byte_counts(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    small = {"x": torch.tensor([1, 2], dtype=torch.uint8), "y": torch.tensor([0.5])}
    write_tensors(path, small, {"k": "v"})
    raw = path.read_bytes()
    padding = {i for i in range(len(raw)) if raw[i : i + 1] == b" "}  # of JSON and of the header; says nothing
    for i in range(len(raw)):
        path.write_bytes(raw[:i] + bytes([raw[i] ^ 1]) + raw[i + 1 :])
        stored = read_tensors(path)
        assert stored is None or (i in padding and stored.digest == digest_of(small, {"k": "v"})), (i, raw[i])


def without_entry(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path, metadata={"other": "{}"})


def entry_is_no_object(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path, metadata={"quant_sweep": "[1]"})


def text_is_no_object(path: Path) -> None:
    save_file({"x": torch.zeros(1)}, path, metadata={"quant_sweep": json.dumps({"digest": "0", "text": 5})})


def cut_off(path: Path) -> None:
    write_tensors(path, tensors(), TEXT)
    path.write_bytes(path.read_bytes()[:-1])


def longer(path: Path) -> None:
    write_tensors(path, tensors(), TEXT)
    path.write_bytes(path.read_bytes() + b"\0")


@pytest.mark.parametrize("damage", [without_entry, entry_is_no_object, text_is_no_object, cut_off, longer])
def test_what_is_not_ours_is_nothing(tmp_path: Path, damage) -> None:
    path = tmp_path / "a.safetensors"
    damage(path)
    assert read_tensors(path) is None


def test_no_file_is_nothing(tmp_path: Path) -> None:
    assert read_tensors(tmp_path / "none") is None


def test_writing_to_what_was_read_does_not_reach_the_file(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.ones(4)}, {})
    first, again = read_tensors(path), read_tensors(path)
    assert first is not None
    assert again is not None
    first.tensors["x"].zero_()
    assert again.tensors["x"].tolist() == [1.0] * 4
    assert read_tensors(path) is not None


def test_a_failed_write_leaves_the_old_file_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.safetensors"
    write_tensors(path, {"x": torch.ones(4)}, {})
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk is full"):
        write_tensors(path, {"x": torch.zeros(4)}, {})
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_rows_make_the_file_that_whole_tensors_make(tmp_path: Path) -> None:
    tensors = {
        "a": torch.arange(10, dtype=torch.uint8).reshape(5, 2),
        "b": torch.arange(5, dtype=torch.int64),
        "c": torch.rand(5, 3, 1),
    }
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with writing_rows(tmp_path / "rows", layout, lambda: {"x": "y"}) as write:
        for row in range(5):
            for name, tensor in tensors.items():
                write(name, row, tensor[row])
    write_tensors(tmp_path / "whole", tensors, {"x": "y"})
    rows, whole = (read_tensors(tmp_path / name) for name in ("rows", "whole"))
    assert (
        (rows.digest, dict(rows.text))
        == (whole.digest, dict(whole.text))
        == (digest_of(tensors, {"x": "y"}), {"x": "y"})
    )
    assert all(torch.equal(rows.tensors[name], tensor) for name, tensor in tensors.items())
    content = bytearray((tmp_path / "rows").read_bytes())
    content[-1] ^= 1
    (tmp_path / "rows").write_bytes(content)
    assert read_tensors(tmp_path / "rows") is None
    with pytest.raises(RuntimeError), writing_rows(tmp_path / "none", layout, dict):
        raise RuntimeError
    assert not (tmp_path / "none").exists()
