"""What quantization does to the outputs of a network, against those it gives in float."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final

import torch.nn.functional as F
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.arithmetic.affine import sqnr_db
from quant_sweep.evaluation.metrics import Batch, Custom, Metric, Top1
from quant_sweep.evaluation.metrics.signals import power_of


@dataclass(frozen=True)
class Damage:
    """On a set of samples.

    Attributes:
        drop: of the metric, in its unit and direction, float less quantized: points of accuracy; below 0 where chance
            helps. None where the metric says nothing of float, or nothing of single samples.
        logit_kl: mean over samples of KL(softmax(float logits) || softmax(quantized logits)), nats; None where the
            outputs are no logits.
        relative_error: sum (z - z_quantized)^2 / sum z^2 over all outputs z.
        logit_sqnr_db: the same as a ratio of signal to noise, dB; +inf where nothing changed.
    """

    drop: float | None
    logit_kl: float | None
    relative_error: float
    logit_sqnr_db: float


def has_drop(metric: Metric) -> bool:
    """Whether a drop of the metric can be told of any set of samples."""
    return metric.has_float_value and not (isinstance(metric, Custom) and not metric.said.mean)


@final
@dataclass
class DamageSum:
    """Adds up over batches; `damage` finishes."""

    metric: Metric = field(default_factory=Top1)
    samples: int = 0
    statistics: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)  # of float and quantized, summed over samples, (k,)
    kl: float | None = 0.0
    signal: float = 0.0
    noise: float = 0.0

    def update(self, original: Any, outputs: Any, labels: Tensor | None, inputs: Tensor | None = None) -> None:
        """Add a batch: what the float network and the quantized one return, the labels and what was read."""
        self.samples += len(pytree.tree_leaves(outputs)[0])
        if has_drop(self.metric):
            batches = (Batch(part, original, inputs, labels) for part in (original, outputs))
            before, (more, other) = self.statistics, (self.metric.statistics(batch).sum(dim=0) for batch in batches)
            self.statistics = before[0] + more, before[1] + other
        if self.kl is not None and self.metric.reads_classes:
            self.kl += float(logit_kl(*(self.metric.read(part) for part in (original, outputs))).sum())
        else:
            self.kl = None
        signal, noise = power_of(self.metric, outputs, original).sum(dim=0).tolist()
        self.signal, self.noise = self.signal + signal, self.noise + noise

    @property
    def float_value(self) -> float | None:
        """The metric of the float network."""
        return self._value(self.statistics[0])

    def _value(self, sums: Tensor | float) -> float | None:
        return float(self.metric.value(sums / self.samples)) if isinstance(sums, Tensor) else None

    def damage(self) -> Damage:
        original, value = map(self._value, self.statistics)
        sign = 1.0 if self.metric.higher_is_better else -1.0
        return Damage(
            drop=None if original is None or value is None else sign * (original - value),
            logit_kl=None if self.kl is None else self.kl / self.samples,
            relative_error=self.noise / self.signal if self.signal else float(self.noise > 0),
            logit_sqnr_db=sqnr_db(self.signal, self.noise).item(),
        )


def logit_kl(original: Tensor, logits: Tensor) -> Tensor:
    """KL(softmax(original) || softmax(logits)) of each sample, in float64; of several positions their mean.

    Args:
        original, logits: (n, classes, ...).

    Returns:
        nats, float64 (n,), never below 0.

    Source: Kullback and Leibler 1951, Annals of Mathematical Statistics 22, p. 79-86.
    """
    p, q = F.log_softmax(original.double(), dim=1), F.log_softmax(logits.double(), dim=1)
    divergence = (p.exp() * (p - q)).sum(dim=1).clamp(min=0.0)  # rounding leaves -1e-17 where both are the same
    return divergence.flatten(1).mean(dim=1) if divergence.dim() > 1 else divergence
