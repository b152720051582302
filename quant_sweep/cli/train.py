"""`quant-sweep-train`: the float baseline."""

from __future__ import annotations

import hashlib
import json
import logging
from pathlib import Path

import torch
from omegaconf import DictConfig

from quant_sweep.cli.hydra_app import one_line_errors, run_hydra
from quant_sweep.cli.schema import Train
from quant_sweep.sweep.build import load_data, new_model, open_tracker, plain, resolve_device
from quant_sweep.sweep.point import flat_params
from quant_sweep.tracking import Recorder
from quant_sweep.train import EpochResult, TrainConfig, train

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
    settings = plain(cfg)
    config = TrainConfig(**settings["train"])
    device = resolve_device(settings["device"])
    tracker = open_tracker(cfg)
    data = load_data(settings["data"])
    torch.manual_seed(config.seed)  # factories draw the initial weights from torch's global stream
    model = new_model(settings["model"], len(data.classes), data.channels)
    name = f"{settings['model']['name']}-{settings['data']['name']}"
    folder = Path(cfg.outputs_dir) / "train" / name
    params = flat_params({key: settings[key] for key in ("model", "data")})
    params |= {f"train.{key}": value for key, value in settings["train"].items()} | {"device": device.type}
    key = hashlib.sha256(json.dumps([str(folder.absolute()), params], sort_keys=True).encode()).hexdigest()[:40]
    with (
        tracker.lock(key),
        tracker.record(kind="train", key=key, name=f"{name} training", params=params) as record,
    ):
        result = train(model, data, config, folder, device, lambda epoch: _log_epoch(record, epoch))
        record.metrics({"best_accuracy": result.best_accuracy, "best_epoch": result.best_epoch})
    log.info("best test accuracy %.2f after epoch %d: %s", result.best_accuracy, result.best_epoch, result.best)


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
