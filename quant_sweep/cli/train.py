"""`quant-sweep-train`: the float baseline."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.schema import Train
from quant_sweep.data import DataSet
from quant_sweep.errors import InputError
from quant_sweep.runtime.kinds import SEEDS, is_seed
from quant_sweep.sweep.build import load_data, new_model, open_tracker, plain, resolve_device
from quant_sweep.sweep.check import check_places
from quant_sweep.sweep.choices import check_choice
from quant_sweep.sweep.environment import as_written, from_environment
from quant_sweep.sweep.point import flat_params
from quant_sweep.tracking import Recorder
from quant_sweep.train import EpochResult, TrainConfig, train
from quant_sweep.train.state import prepare_folder

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point."""
    with one_line_errors("quant-sweep-train"):
        run_hydra("train_config", train_model, Train)


def train_model(cfg: DictConfig) -> None:
    """Train what `cfg` names, continuing an interrupted training; leaves best.safetensors where sweeps look for it.

    Raises:
        InputError: a value cannot be used; before any epoch.
    """
    written = from_environment(cfg)
    settings = plain(cfg)
    config = check_recipe(settings)
    device = resolve_device(settings["device"])
    name = f"{settings['model']['name']}-{settings['data']['name']}"
    folder = Path(cfg.outputs_dir) / "train" / name
    prepare_folder(folder, config)
    tracker = open_tracker(cfg)
    data = load_data(settings["data"])
    if data.train.labels is not data.train.strata:
        raise InputError(f"data={settings['data']['name']}: has no class for each sample, which training needs")
    check_fits(config, data)
    torch.manual_seed(config.seed)  # factories draw the initial weights from torch's global stream
    model = new_model(settings["model"], len(data.classes), data.channels)
    shown = as_written(settings, written)
    params = flat_params({key: shown[key] for key in ("model", "data")})
    params |= {f"train.{key}": value for key, value in settings["train"].items()} | {"device": device.type}
    key = hashlib.sha256(json.dumps([str(folder.absolute()), params], sort_keys=True).encode()).hexdigest()[:40]
    with (
        tracker.lock(key),
        tracker.record(kind="train", key=key, name=f"{name} training", params=params) as record,
    ):
        result = train(model, data, config, folder, device, lambda epoch: _log_epoch(record, epoch))
        record.metrics({"best_accuracy": result.best_accuracy, "best_epoch": result.best_epoch})
    log.info("best test accuracy %.2f after epoch %d: %s", result.best_accuracy, result.best_epoch, result.best)


def check_recipe(settings: Mapping[str, Any]) -> TrainConfig:
    """The recipe of a training, and the other settings of it looked at.

    Raises:
        InputError: a key is missing, is no setting of a recipe, or has a value that cannot be used.
    """
    for key in ("model", "data", "train", "device", "tracking", "outputs_dir", "cache_dir"):
        if key not in settings:
            raise InputError(f"{key}: it must be given; no ~ may take it away")
    for group in ("model", "data"):
        check_choice(group, settings[group])
    check_places(settings)
    recipe, names = settings["train"], [field.name for field in fields(TrainConfig)]
    if not isinstance(recipe, Mapping):
        raise InputError(f"train={recipe}: allowed is a recipe, train=default")
    for key in recipe:
        if key not in names:
            raise InputError(f"train.{key}={recipe[key]}: no such setting; allowed are {', '.join(names)}")
    for key in names:
        if key not in recipe:
            raise InputError(f"train.{key}: it must be given; no ~ may take it away")
    if not is_seed(recipe["seed"]):
        raise InputError(f"train.seed={recipe['seed']!r}: allowed are {SEEDS}")
    return TrainConfig(**recipe)


def check_fits(recipe: TrainConfig, data: DataSet) -> None:
    """Refuse what would leave nothing of an image.

    Raises:
        InputError: a crop or a painted square may be as large as the images.
    """
    size = min(data.train.images.shape[-2:])
    for key in ("crop_padding", "cutout"):
        if getattr(recipe, key) >= size:
            raise InputError(
                f"train.{key}={getattr(recipe, key)}: the images have {size} pixels; allowed are 0 to {size - 1}"
            )


def _log_epoch(record: Recorder, epoch: EpochResult) -> None:
    record.metrics(
        {
            "lr": epoch.lr,
            "train_loss": epoch.train_loss,
            "train_accuracy": epoch.train_accuracy,
            "test_accuracy": epoch.test_accuracy,
            "images_per_second": epoch.images_per_second,
        },
        step=epoch.epoch,
    )
