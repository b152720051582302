"""What a training keeps on disk, so that it can be used and continued.

`best.safetensors` holds the state dict of the epoch with the best test accuracy and nothing else, ready for
`model.checkpoint`; its metadata says which epoch. `last.safetensors` holds model and momentum after the last finished
epoch, and in its metadata the recipe and the result of every epoch. No generator state is needed: each epoch draws
from its own stream (see `loop`). `best` is written first, so a crash in between costs one epoch and no weights.
"""

import dataclasses
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from quant_sweep.data.base import DataSet
from quant_sweep.errors import InputError
from quant_sweep.models.checkpoint import load_weights, read_written, write_checkpoint
from quant_sweep.train.config import TrainConfig

__all__ = ["Best", "EpochResult", "best_path", "identity", "last_path", "prepare_folder", "read_best", "resume", "save"]

# one entry of metadata per file: safetensors writes several in any order, and equal trainings shall give equal bytes
BEST = "best"
TRAINING = "training"


@final
@dataclasses.dataclass(frozen=True)
class EpochResult:
    """One finished epoch.

    epoch: from 1. lr: of its last step. train_loss: mean over the epoch's images, as augmented, label smoothing
    included. train_accuracy, test_accuracy: percent. seconds: evaluation included. images_per_second: of training.
    """

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_accuracy: float
    seconds: float
    images_per_second: float


@final
@dataclasses.dataclass(frozen=True)
class Best:
    """The epoch (from 1) whose weights `best.safetensors` holds, and its test accuracy in percent."""

    epoch: int
    accuracy: float


def best_path(folder: Path) -> Path:
    return folder / "best.safetensors"


def last_path(folder: Path) -> Path:
    return folder / "last.safetensors"


def prepare_folder(folder: Path, config: TrainConfig) -> None:
    """Make the folder, and find out now whether a training with this recipe can go on, or begin, there.

    Raises:
        InputError: files cannot be written there; those that are there are damaged, of another recipe or of another
            program, whose weights a training would replace.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        reason = error.strerror or error
        raise InputError(f"outputs_dir={folder}: cannot be written ({reason}); give a writable folder") from error
    if last_path(folder).exists():
        _, training = _read(last_path(folder), TRAINING)
        _check_same(last_path(folder), training["same"], _recipe(config))
        read_best(folder)
    elif best_path(folder).exists():
        _read(best_path(folder), BEST)  # of a training that was interrupted in its first epoch


def identity(config: TrainConfig, data: DataSet) -> dict[str, Any]:
    """What must be the same for a training to be continued."""
    return {**_recipe(config), "data": data.fingerprint}


def _recipe(config: TrainConfig) -> dict[str, Any]:
    return {f"train.{key}": value for key, value in dataclasses.asdict(config).items()}


def save(
    folder: Path,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    same: dict[str, Any],
    history: list[EpochResult],
    best: Best,
) -> None:
    """Write `last`, and before it `best` if the last epoch is the best one.

    Raises:
        ValueError: a weight is NaN or infinite; that file is not written.
    """
    if best.epoch == history[-1].epoch:
        write_checkpoint(best_path(folder), model.state_dict(), {BEST: json.dumps(dataclasses.asdict(best))})
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        momentum = optimizer.state[parameter].get("momentum_buffer")
        if momentum is not None:
            tensors[f"momentum.{name}"] = momentum
    training = {"same": same, "epochs": [dataclasses.asdict(result) for result in history]}
    write_checkpoint(last_path(folder), tensors, {TRAINING: json.dumps(training)})


def resume(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, same: dict[str, Any]) -> list[EpochResult]:
    """Put model and optimizer where the last finished epoch left them; a fresh folder leaves them alone.

    Returns:
        The results of the epochs that are finished.

    Raises:
        InputError: the folder holds another recipe, other data or another model, or a damaged file.
    """
    last = last_path(folder)
    if not last.exists():
        return []
    stored, training = _read(last, TRAINING)
    _check_same(last, training["same"], same)
    state = {n.removeprefix("model."): t for n, t in stored.items() if n.startswith("model.")}
    load_weights(model, state, str(last))
    for name, parameter in model.named_parameters():
        if f"momentum.{name}" in stored:
            # in the memory layout of the parameter, as SGD would have made it
            momentum = torch.empty_like(parameter).copy_(stored[f"momentum.{name}"])
            optimizer.state[parameter]["momentum_buffer"] = momentum.detach()
    return [EpochResult(**epoch) for epoch in training["epochs"]]


def read_best(folder: Path) -> Best:
    """Which epoch the best weights are from.

    Raises:
        InputError: the file is gone or damaged.
    """
    path = best_path(folder)
    if not path.exists():
        raise InputError(f"outputs_dir: {path} is missing beside {last_path(folder).name}; remove both to train anew")
    _, best = _read(path, BEST)
    return Best(**best)


def _read(path: Path, name: str) -> tuple[Mapping[str, Tensor], Any]:
    """The tensors of a file that `save` wrote, and what it wrote into the metadata as `name`.

    Raises:
        InputError: the file is damaged, or not from `save`.
    """
    written = read_written(path)
    if written is None or name not in written.text:
        raise InputError(
            f"outputs_dir: {path} is not from this version of the training; remove it to train anew, "
            "or give another outputs_dir"
        )
    return written.tensors, json.loads(written.text[name])


def _check_same(last: Path, stored: dict[str, Any], same: dict[str, Any]) -> None:
    different = [f"{key}={same.get(key)} (was {stored.get(key)})" for key in same if same[key] != stored.get(key)]
    if different:
        raise InputError(
            f"{', '.join(different)}: {last} was begun otherwise; "
            "continue with the same values, or remove the folder to train anew"
        )
