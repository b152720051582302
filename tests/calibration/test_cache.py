"""The cache of summaries: what comes back is what was collected, bit for bit; made again when damaged, once by many."""

import logging
from collections.abc import Callable
from pathlib import Path
from time import sleep

import pytest
import torch
from small_networks import captured, cifar_resnet20, images
from torch import Tensor

from quant_sweep.calibration.cache import Summaries, collected_once, read_intact
from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.graph import Fusion
from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Collector, Summary
from torture import forked

DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut off": lambda raw: raw[:-3],
    "emptied": lambda _: b"",
    "one count changed": lambda raw: raw[:-9] + bytes([raw[-9] ^ 1]) + raw[-8:],
    "no header": lambda raw: raw[100:],
    "digest of another": lambda raw: raw.replace(b'digest\\": \\"', b'digest\\": \\"0', 1),
}


@pytest.fixture(scope="module")
def summaries() -> Summaries:
    batches = [images(3, seed=seed) for seed in range(3)]
    return calibrate(captured(cifar_resnet20, Fusion.conv_bn_relu), batches).summaries


def never() -> Summaries:
    raise AssertionError("collected although it should not be")


def tensors(summary: Summary) -> list[Tensor]:
    histograms: list[Histogram] = [summary.total, *summary.recent]
    return [*(value for h in histograms for value in vars(h).values()), summary.batch_lo, summary.batch_hi]


def same(a: Summaries, b: Summaries) -> bool:
    def equal(name: str) -> bool:
        ours, theirs = tensors(a[name]), tensors(b[name])
        pairs = zip(ours, theirs, strict=False)
        return len(ours) == len(theirs) and all(x.dtype == y.dtype and torch.equal(x, y) for x, y in pairs)

    return list(a) == list(b) and all(map(equal, a))


def test_the_second_asks_the_file(tmp_path: Path, summaries: Summaries) -> None:
    first = collected_once("key", tmp_path, lambda: summaries)
    again = collected_once("key", tmp_path, never)
    assert same(first, summaries)
    assert same(again, summaries)
    assert not list(tmp_path.rglob("*.tmp"))


def test_another_key_is_another_pass(tmp_path: Path, summaries: Summaries) -> None:
    collected_once("key", tmp_path, lambda: summaries)
    with pytest.raises(AssertionError, match="although"):
        collected_once("other", tmp_path, never)


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_file_is_collected_again_with_a_warning(
    tmp_path: Path, summaries: Summaries, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    collected_once("key", tmp_path, lambda: summaries)
    (path,) = tmp_path.rglob("*.safetensors")
    path.write_bytes(damage(path.read_bytes()))
    assert read_intact(path) is None
    with caplog.at_level(logging.WARNING):
        assert same(collected_once("key", tmp_path, lambda: summaries), summaries)
    assert "damaged" in caplog.text
    assert same(collected_once("key", tmp_path, never), summaries)


def test_processes_at_once_collect_once(tmp_path: Path) -> None:
    def collect() -> Summaries:
        with (tmp_path / "passes").open("a") as file:
            file.write("one\n")
        sleep(0.5)
        collector = Collector()
        collector.update(torch.arange(7.0))
        return {"input": collector.summary()}

    def work() -> None:
        print(int(collected_once("key", tmp_path, collect)["input"].total.counts.sum()))

    children = [forked.start(work, tmp_path, tmp_path / f"{i}.log") for i in range(3)]
    assert [child.wait() for child in children] == [0] * 3
    assert [child.log.read_text().strip() for child in children] == ["7"] * 3
    assert (tmp_path / "passes").read_text() == "one\n"
