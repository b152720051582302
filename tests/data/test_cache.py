"""The cache of decoded images: used when intact, made again when damaged, made once by many."""

import logging
import os
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from quant_sweep.data.base import Decoded, ImageSet, decoded
from quant_sweep.data.cache import decoded_once, read_intact, write
from quant_sweep.errors import InputError
from quant_sweep.runtime.tensor_file import write_tensors


def content() -> Decoded:
    images = torch.arange(2 * 3 * 4, dtype=torch.uint8).view(2, 3, 2, 2)
    labels = torch.tensor([0, 1])
    return decoded(("é", "b"), ImageSet(images, labels), ImageSet(images + 1, labels.clone()))


class Decoder:
    """Counts its calls; slow enough that a second caller would start before the first ends."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.calls = 0
        self.seconds = seconds

    def __call__(self) -> Decoded:
        self.calls += 1
        time.sleep(self.seconds)
        return content()


def never() -> Decoded:
    raise AssertionError("decoded although it should not")


def only_file(cache_dir: Path) -> Path:
    (path,) = (cache_dir / "data").glob("*.safetensors")
    return path


def test_second_load_reads_the_same_content(tmp_path: Path) -> None:
    first = decoded_once("kind", {"a": 1}, tmp_path, content)
    second = decoded_once("kind", {"a": 1}, tmp_path, never)
    assert second.classes == first.classes == ("é", "b")
    assert second.digest == first.digest
    for split in ("train", "test"):
        assert torch.equal(getattr(second, split).images, getattr(first, split).images)
        assert torch.equal(getattr(second, split).labels, getattr(first, split).labels)
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_source_is_another_file(tmp_path: Path) -> None:
    decoder = Decoder()
    for source in ({"size": 8}, {"size": 16}, {"size": 8, "seed": 1}):
        decoded_once("kind", source, tmp_path, decoder)
    assert decoder.calls == 3


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def one_pixel_flipped(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)


def without_metadata(path: Path) -> None:
    tensors = {name: tensor.clone() for name, tensor in load_file(path).items()}
    save_file(tensors, path)


def without_labels(path: Path) -> None:
    write_tensors(path, {"train.images": torch.zeros(1)}, {"classes": "[]"})


@pytest.mark.parametrize("damage", [cut_off, emptied, one_pixel_flipped, without_metadata, without_labels])
def test_damaged_file_is_made_again_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[Path], None]
) -> None:
    decoded_once("kind", {}, tmp_path, content)
    damage(only_file(tmp_path))
    decoder = Decoder()
    with caplog.at_level(logging.WARNING):
        again = decoded_once("kind", {}, tmp_path, decoder)
    assert decoder.calls == 1
    assert again.digest == content().digest
    assert "damaged" in caplog.text
    decoded_once("kind", {}, tmp_path, never)


def test_writing_to_a_loaded_image_does_not_reach_the_file(tmp_path: Path) -> None:
    decoded_once("kind", {}, tmp_path, content)
    decoded_once("kind", {}, tmp_path, never).train.images.zero_()
    assert decoded_once("kind", {}, tmp_path, never).digest == content().digest


def test_callers_at_once_decode_once(tmp_path: Path) -> None:
    decoder = Decoder(seconds=0.2)
    found: list[str] = []

    def load() -> None:
        found.append(decoded_once("kind", {}, tmp_path, decoder).digest)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert decoder.calls == 1
    assert found == [content().digest] * 4


def test_a_failed_decode_leaves_nothing_and_frees_the_lock(tmp_path: Path) -> None:
    def fail() -> Decoded:
        raise InputError("data.root: broken")

    with pytest.raises(InputError, match="broken"):
        decoded_once("kind", {}, tmp_path, fail)
    assert not list(tmp_path.rglob("*.safetensors"))
    assert decoded_once("kind", {}, tmp_path, content).digest == content().digest


def test_a_failed_write_leaves_no_unfinished_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError("disk is full")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="disk is full"):
        write(tmp_path / "a.safetensors", content())
    assert list(tmp_path.iterdir()) == []


def test_no_file_is_no_content(tmp_path: Path) -> None:
    assert read_intact(tmp_path / "none.safetensors") is None


def test_cache_dir_that_is_a_file_fails_before_decoding(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"^cache_dir=.*file: cannot write.*allowed: a writable folder"):
        decoded_once("kind", {}, tmp_path / "file", never)


def test_read_only_cache_dir_fails_before_decoding_but_serves_what_it_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded_once("kind", {}, tmp_path, content)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write anywhere, so chmod would not tell
    assert decoded_once("kind", {}, tmp_path, never).digest == content().digest
    with pytest.raises(InputError, match=r"^cache_dir=.*read-only"):
        decoded_once("kind", {"other": 1}, tmp_path, never)
