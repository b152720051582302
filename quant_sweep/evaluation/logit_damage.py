"""What quantization does to the logits of a network, against those it gives in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import torch.nn.functional as F
from torch import Tensor

from quant_sweep.arithmetic.affine import sqnr_db


@dataclass(frozen=True)
class Damage:
    """On a set of images.

    Attributes:
        accuracy_drop: points of top-1 accuracy, float minus quantized; below 0 where chance helps.
        logit_kl: mean over images of KL(softmax(float logits) || softmax(quantized logits)), nats.
        logit_sqnr_db: 10 log10(sum z^2 / sum (z - z_quantized)^2) over all logits z, dB; +inf where nothing changed.
    """

    accuracy_drop: float
    logit_kl: float
    logit_sqnr_db: float


@final
@dataclass
class DamageSum:
    """Adds up over batches; `damage` finishes."""

    images: int = 0
    lost: int = 0  # images that float has right, less those that quantized has right
    kl: float = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def update(self, original: Tensor, logits: Tensor, labels: Tensor) -> None:
        """Add a batch: logits (n, classes) in float and quantized, classes int64 (n,)."""
        self.images += len(labels)
        self.lost += count_correct(original, labels) - count_correct(logits, labels)
        self.kl += float(logit_kl(original, logits).sum())
        self.signal += float((original.double() ** 2).sum())
        self.noise += float(((original.double() - logits.double()) ** 2).sum())

    def damage(self) -> Damage:
        return Damage(100.0 * self.lost / self.images, self.kl / self.images, sqnr_db(self.signal, self.noise).item())


def logit_kl(original: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(original) || softmax(logits)) of each image, in float64.

    Args:
        original, logits: (n, classes).

    Returns:
        nats, float64 (n,), never below 0.

    Source: Kullback and Leibler 1951, Annals of Mathematical Statistics 22, p. 79-86.
    """
    p, q = F.log_softmax(original.double(), dim=1), F.log_softmax(logits.double(), dim=1)
    return (p.exp() * (p - q)).sum(dim=1).clamp(min=0.0)  # rounding leaves -1e-17 where both are the same


def count_correct(logits: Tensor, labels: Tensor) -> int:
    """How many images have their largest logit at their label."""
    return int((logits.argmax(dim=1) == labels.to(logits.device)).sum())
