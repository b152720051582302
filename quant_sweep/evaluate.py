"""A runnable network and images -> predictions, accuracy, seconds."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quant_sweep.data import DataSet, ImageSet
from quant_sweep.full_precision import full_precision


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network said about a set of images.

    Attributes:
        predictions: class per image, int64 (n,).
        labels: true class per image, int64 (n,).
        seconds: wall time of the forward passes and the normalisation.
    """

    predictions: Tensor
    labels: Tensor
    seconds: float

    @property
    def correct(self) -> int:
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100.0 * self.correct / len(self.labels)

    @property
    def images_per_second(self) -> float:
        return len(self.labels) / self.seconds

    def agreement(self, other: Evaluation) -> float:
        """Percent of images on which both say the same class.

        Raises:
            ValueError: the two saw different numbers of images.
        """
        if len(self.predictions) != len(other.predictions):
            raise ValueError(f"{len(self.predictions)} and {len(other.predictions)} predictions cannot be compared")
        return 100.0 * (self.predictions == other.predictions).to(torch.float64).mean().item()


@torch.inference_mode()
@full_precision()
def evaluate(
    network: nn.Module, data: DataSet, images: ImageSet, batch_size: int, device: torch.device | str = "cpu"
) -> Evaluation:
    """Run a network over a set of images.

    Args:
        network: normalised images to logits; is moved to `device`.
        data: knows the normalisation.
        images: what to predict.
        batch_size: images per forward pass.

    Raises:
        FloatingPointError: a logit is NaN, which no argmax may turn into a class.
    """
    network = network.to(device)
    predictions = []
    began = time.perf_counter()
    for batch in images.images.split(batch_size):
        logits = network(data.normalize(batch.to(device)))
        if bool(logits.isnan().any()):
            raise FloatingPointError("evaluation: the network returned NaN logits")
        predictions.append(logits.argmax(dim=1).cpu())
    return Evaluation(torch.cat(predictions), images.labels, time.perf_counter() - began)
