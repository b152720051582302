"""Train a network on an image set with SGD and keep its best and its last weights.

Every epoch draws its order, augmentation and dropout from a stream of its own, seeded by (seed, epoch). A training
that was interrupted and continued is therefore, on the CPU, equal to one that was not, bit for bit.

"Best" is the epoch with the highest accuracy on the *test* images. That is the usual practice for CIFAR-10 and that
of the study, but it selects on the images that it reports: the accuracy of the best epoch is a slightly optimistic
estimate. There is no validation split here.

Leaves out: several devices, gradient accumulation, averaging of weights, gradient scaling (bf16 needs none).
"""

import dataclasses
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from filelock import FileLock
from torch import Tensor, nn

from quant_sweep.data.augment import crop_and_flip, cut_out
from quant_sweep.data.base import DataSet, ImageSet
from quant_sweep.errors import InputError
from quant_sweep.train.config import TrainConfig, learning_rate
from quant_sweep.train.progress import EpochBar
from quant_sweep.train.state import Best, EpochResult, best_path, identity, last_path, prepare_folder, read_best, resume
from quant_sweep.train.state import save as save_state

__all__ = ["TrainResult", "sgd", "train"]

STEPS_PER_CHECK = 10  # reading the loss makes a GPU wait, so it is not read at every step


@final
@dataclasses.dataclass(frozen=True)
class TrainResult:
    """best_accuracy: percent of the test images, see the module about its bias. best, last: files."""

    best_accuracy: float
    best_epoch: int
    epochs: tuple[EpochResult, ...]
    best: Path
    last: Path


def train(
    model: nn.Module,
    data: DataSet,
    config: TrainConfig,
    folder: Path,
    device: torch.device,
    on_epoch: Callable[[EpochResult], None],
) -> TrainResult:
    """Train `model` in place, continuing what `folder` already holds.

    A second process with the same folder waits for the first and then finds its result.

    Args:
        model: moved to `device`; left with the weights of the last epoch.
        data: images and labels.
        config: the recipe.
        folder: gets best.safetensors and last.safetensors.
        device: cpu or cuda.
        on_epoch: called once for each epoch in order, those that an interrupted training had finished included.

    Raises:
        InputError: the folder cannot be written or holds a different training, or the loss becomes NaN or infinite.
    """
    prepare_folder(folder, config)
    same = identity(config, data)
    model.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = sgd(model, config)
    with FileLock(folder / ".lock"), _tf32(device):
        history = resume(folder, model, optimizer, same)
        best = read_best(folder) if history else Best(0, -math.inf)
        for result in history:
            on_epoch(result)
        steps = math.ceil(len(data.train) / config.batch_size)
        trainer = _Trainer(model, optimizer, data, config, device)
        with EpochBar(config.epochs, steps, len(history)) as bar:
            for epoch in range(len(history) + 1, config.epochs + 1):
                result = trainer.epoch(epoch, steps, bar)
                history.append(result)
                if result.test_accuracy > best.accuracy:
                    best = Best(epoch, result.test_accuracy)
                save_state(folder, model, optimizer, same, history, best)
                bar.epoch(result)
                on_epoch(result)
    return TrainResult(best.accuracy, best.epoch, tuple(history), best_path(folder), last_path(folder))


@final
class _Trainer:
    """What all epochs share; the images already lie on the device."""

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        data: DataSet,
        config: TrainConfig,
        device: torch.device,
    ) -> None:
        self.model, self.optimizer, self.data, self.config, self.device = model, optimizer, data, config, device
        self.train = ImageSet(data.train.images.to(device), data.train.strata.to(device))
        self.test = ImageSet(data.test.images.to(device), data.test.strata.to(device))

    def epoch(self, epoch: int, steps: int, bar: EpochBar) -> EpochResult:
        """One pass over the training images and one over the test images; `epoch` from 1."""
        began = time.perf_counter()
        images = len(self.train)
        with torch.random.fork_rng(devices=[self.device] if self.device.type == "cuda" else []):
            loss, correct, lr = self._train(epoch, steps, bar)
        trained = time.perf_counter()
        test_accuracy = self._test_accuracy()
        return EpochResult(
            epoch=epoch,
            lr=lr,
            train_loss=loss / images,
            train_accuracy=100 * correct / images,
            test_accuracy=test_accuracy,
            seconds=time.perf_counter() - began,
            images_per_second=images / (trained - began),
        )

    def _train(self, epoch: int, steps: int, bar: EpochBar) -> tuple[float, float, float]:
        """Sum of the loss, number of correct predictions, last learning rate."""
        seed = _epoch_seed(self.config.seed, epoch)
        torch.manual_seed(seed)  # dropout
        generator = torch.Generator(self.device).manual_seed(seed)
        order = torch.randperm(len(self.train), generator=generator, device=self.device)
        total = torch.zeros(2, device=self.device, dtype=torch.float64)  # loss, correct
        seen, lr, began = 0, 0.0, time.perf_counter()
        self.model.train()
        for step, batch in enumerate(order.tensor_split(steps)):  # batches of equal size, up to one image
            lr = learning_rate(self.config, (epoch - 1) * steps + step, self.config.epochs * steps)
            total += self._step(batch, lr, generator)
            seen += len(batch)
            if step % STEPS_PER_CHECK == 0 or step == steps - 1:
                loss, correct = total.tolist()
                if not math.isfinite(loss):
                    raise InputError(
                        f"train.lr={self.config.lr}: the loss became {loss} in epoch {epoch}, by step {step + 1}; "
                        "a lower value, or a longer train.warmup, may keep it finite"
                    )
                bar.step(epoch, step + 1, loss / seen, 100 * correct / seen, seen / (time.perf_counter() - began))
        return loss, correct, lr

    def _step(self, batch: Tensor, lr: float, generator: torch.Generator) -> Tensor:
        """One step of SGD on the images numbered `batch`; (2,): sum of the loss, correct predictions."""
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        labels = self.train.strata[batch]
        inputs = self.data.normalize(self._augmented(self.train.images[batch], generator))
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            logits = self.model(inputs)  # (n, classes)
            loss = F.cross_entropy(logits, labels, label_smoothing=self.config.label_smoothing)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        correct = (logits.detach().argmax(1) == labels).sum()
        return torch.stack([loss.detach().double() * len(batch), correct.double()])

    def _augmented(self, images: Tensor, generator: torch.Generator) -> Tensor:
        images = crop_and_flip(images, self.config.crop_padding, self.config.flip, generator)
        if self.config.cutout:
            mean = torch.tensor(self.data.mean, device=self.device)
            images = cut_out(images, self.config.cutout, (255 * mean).round().to(torch.uint8), generator)
        return images

    @torch.inference_mode()
    def _test_accuracy(self) -> float:
        """Percent, in float32 whatever the training precision is."""
        self.model.eval()
        size = self.config.batch_size
        correct = sum(
            (self.model(self.data.normalize(images)).argmax(1) == labels).sum()
            for images, labels in zip(
                torch.split(self.test.images, size), torch.split(self.test.strata, size), strict=True
            )
        )
        return 100 * int(correct) / len(self.test)


def sgd(model: nn.Module, config: TrainConfig) -> torch.optim.SGD:
    """SGD whose weight decay leaves alone what has one number per channel: BatchNorm and biases."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim > 1], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=config.nesterov, fused=True)


def _epoch_seed(seed: int, epoch: int) -> int:
    """Streams of neighbouring seeds and epochs have nothing in common."""
    return int(np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint32)[0])


def _tf32(device: torch.device) -> AbstractContextManager[None]:
    """Convolutions on a GPU may use TF32, and the fastest kernels for their shapes."""
    if device.type != "cuda":
        return nullcontext()
    return torch.backends.cudnn.flags(enabled=True, benchmark=True, deterministic=False, allow_tf32=True)
