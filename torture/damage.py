"""Bit flips, truncations and overwritten blocks in every kind of file that is written and read back.

A damage must be noticed: a cache says so and is made again, weights are refused in one line. Where the content is
unchanged all the same (padding, the time stamp in a zip), the damage is harmless.
"""

from __future__ import annotations

import logging
import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from quant_sweep.calibration.cache import Summaries, collected_once
from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.data.base import Decoded, ImageSet, decoded
from quant_sweep.data.cache import decoded_once
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, capture
from quant_sweep.models.checkpoint import read_checkpoint
from quant_sweep.runtime.tensor_file import digest_of
from quant_sweep.tracking import Tracker
from quant_sweep.train.state import Best, EpochResult, best_path, last_path, read_best, resume, save

BLOCK = 512  # bytes that a disk loses at once
HEAD = 2048  # bytes at the beginning, where the names are; half of the damages lie there


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        file: an intact one.
        read: its content as text, by the program's own way to read it; None where that was made again.
    """

    name: str
    file: Path
    read: Callable[[], str | None]


def count_damages(kind: Kind, number: int, seed: int) -> Counter[str]:
    """Damage the file of `kind` `number` times, each time from its intact state, and count what comes of it.

    Returns:
        by outcome: refused, made again, harmless, and the two that must not be: silent, traceback.
    """
    intact, content = kind.file.read_bytes(), kind.read()
    assert content is not None, f"{kind.name}: the intact file is not read"
    outcomes: Counter[str] = Counter()
    for damage in damages(intact, number, seed):
        kind.file.write_bytes(damage)
        outcomes[_outcome(kind, content)] += 1
    kind.file.write_bytes(intact)
    return outcomes


def damages(intact: bytes, number: int, seed: int) -> Iterator[bytes]:
    """Seeded damages of a file, by turns a flipped bit, a truncation and a block of other bytes."""
    chance = random.Random(seed)
    for turn in range(number):
        start = chance.randrange(len(intact) if chance.random() < 0.5 else min(HEAD, len(intact)))
        if turn % 3 == 0:
            flipped = intact[start] ^ (1 << chance.randrange(8))
            yield intact[:start] + bytes([flipped]) + intact[start + 1 :]
        elif turn % 3 == 1:
            yield intact[:start]
        else:
            end = min(start + BLOCK, len(intact))
            yield intact[:start] + chance.randbytes(end - start) + intact[end:]


def _outcome(kind: Kind, content: str) -> str:
    try:
        read = kind.read()
    except InputError as error:
        return "refused" if "\n" not in str(error) else "traceback"
    except Exception:
        logging.getLogger(__name__).exception("%s", kind.name)
        return "traceback"
    if read is None:
        return "made again"
    return "harmless" if read == content else "silent"


def kinds(folder: Path) -> list[Kind]:
    """Every kind of file that commands write and read back, small, below `folder`."""
    return [
        _decoded_images(folder / "data"),
        _summaries(folder / "summaries"),
        *_training(folder / "training"),
        _torch_zip(folder / "weights.pt"),
        _table(folder / "store"),
    ]


def _decoded_images(folder: Path) -> Kind:
    pixels = torch.arange(8 * 3 * 4 * 4).to(torch.uint8).view(8, 3, 4, 4)
    halves = [ImageSet(images.clone(), torch.tensor([0, 1, 0, 1])) for images in pixels.split(4)]
    source = decoded(("left", "right"), *halves)

    def describe(content: Decoded) -> str:
        parts = (content.train.images, content.train.labels, content.test.images, content.test.labels)
        return digest_of({str(i): part for i, part in enumerate(parts)}, {"classes": str(content.classes)})

    return _cache("decoded images", folder, lambda make: decoded_once("kind", {}, folder, make), source, describe)


def _summaries(folder: Path) -> Kind:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)).eval()
    images = torch.randn(4, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    source = calibrate(capture(network, images, Fusion.conv_bn_relu), [images]).summaries
    return _cache("calibration", folder, lambda make: collected_once("key", folder, make), source, _of_summaries)


def _cache(
    name: str,
    folder: Path,
    once: Callable[[Callable[[], Any]], Any],
    source: Any,
    describe: Callable[[Any], str],
) -> Kind:
    """A file that is made once. Making it again writes it again, so the next reader is tried as well."""
    once(lambda: source)
    (file,) = folder.rglob("*.safetensors")

    def read() -> str | None:
        made: list[bool] = []

        def make() -> Any:
            made.append(True)
            return source

        content = once(make)
        if made and describe(once(make)) != describe(source):
            return "made again, and still wrong"
        return None if made else describe(content)

    return Kind(name, file, read)


def _training(folder: Path) -> list[Kind]:
    """Both files of a training: the weights of its best epoch, and what it continues from."""

    def fresh() -> tuple[nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2))
        return model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    folder.mkdir(parents=True)
    model, optimizer = fresh()
    model(torch.ones(1, 1, 4, 4)).sum().backward()
    optimizer.step()
    same = {"train.lr": 0.1, "data": "digest"}
    save(folder, model, optimizer, same, [EpochResult(1, 0.1, 2.0, 50.0, 60.0, 1.0, 100.0)], Best(1, 60.0))

    def read_weights() -> str:
        return f"{_of(read_checkpoint(best_path(folder)))} {read_best(folder)}"

    def read_state() -> str:
        model, optimizer = fresh()
        history = resume(folder, model, optimizer, same)
        momentum = {str(i): state["momentum_buffer"] for i, state in enumerate(optimizer.state.values())}
        return f"{_of(model.state_dict())} {_of(momentum)} {history}"

    return [
        Kind("trained weights", best_path(folder), read_weights),
        Kind("training state", last_path(folder), read_state),
    ]


def _torch_zip(path: Path) -> Kind:
    torch.save(nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2)).state_dict(), path)
    return Kind("checkpoint (.pt)", path, lambda: _of(read_checkpoint(path)))


def _table(folder: Path) -> Kind:
    """A table of a finished run, as sweeps and rankings read it back from the store."""
    tracker = Tracker.open(f"sqlite:///{folder}/mlflow.db", "damage", folder / "artifacts", folder / "locks")
    with tracker.record(kind="float", key="key", name="float", params={}) as recorder:
        recorder.text("label,float_prediction\n" + "3,3\n" * 200, "predictions.csv")
    (file,) = folder.rglob("predictions.csv")

    def read() -> str | None:
        path = tracker.load_artifact(recorder.run_id, "predictions.csv")
        return None if path is None else path.read_text()

    return Kind("table of a run", file, read)


def _of_summaries(summaries: Summaries) -> str:
    tensors: dict[str, Tensor] = {}
    for name, summary in summaries.items():
        for i, histogram in enumerate((summary.total, *summary.recent)):
            tensors |= {f"{name}.{i}.{field}": value for field, value in vars(histogram).items()}
        tensors |= {f"{name}.lo": summary.batch_lo, f"{name}.hi": summary.batch_hi}
    return _of(tensors)


def _of(tensors: Mapping[str, Tensor]) -> str:
    return digest_of({name: tensor.detach() for name, tensor in tensors.items()}, {})
