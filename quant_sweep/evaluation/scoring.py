"""What is kept of each batch, a few numbers of every sample, and what they say of a network in the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Any, final

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.data import ImageSet
from quant_sweep.errors import InputError
from quant_sweep.evaluation.metrics.base import Batch, Metric, named_outputs, standard_error, value_of
from quant_sweep.evaluation.metrics.classes import Top1, same_class
from quant_sweep.evaluation.metrics.own import Custom
from quant_sweep.evaluation.metrics.signals import LogitSQNR, power_of

# The numbers of a batch's first sample and of the one behind its last, and its inputs -> the float outputs.
Original = Callable[[int, int, Tensor | None], Any]


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network said about a set of samples.

    Attributes:
        predictions: class per sample, int64 (n,); None where the outputs tell no classes apart.
        labels: of the samples, (n, ...); None where they have none.
        seconds: wall time of the forward passes and the normalisation.
        metric: what was measured.
        statistics: of each sample, float64 (n, k); None where the metric is no function of their mean.
        measured: the metric where it is none.
        same_class: share of each sample to which the float network gives the same class, (n,); None without classes, or
            where nobody compared.
        power: of each sample, sums of squares of the float outputs and of what changed, (n, 2); None as before.
    """

    predictions: Tensor | None
    labels: Tensor | None
    seconds: float
    metric: Metric = field(default_factory=Top1)
    statistics: Tensor | None = None
    measured: float | None = None
    same_class: Tensor | None = None
    power: Tensor | None = None

    @property
    def samples(self) -> int:
        per_sample = (self.predictions, self.labels, self.statistics, self.power)
        return next(len(part) for part in per_sample if part is not None)

    @property
    def value(self) -> float:
        """The metric, in its unit."""
        if self.measured is not None:
            return self.measured
        return self.accuracy if self.statistics is None else value_of(self.metric, self.statistics)

    @property
    def error(self) -> float | None:
        """Standard error of the value; None where it cannot be told."""
        return None if self.statistics is None else standard_error(self.metric, self.statistics)

    def drop(self, original: Evaluation) -> tuple[float, float | None]:
        """What was lost against float on the same samples, in the metric's direction, and its standard error."""
        sign = 1.0 if self.metric.higher_is_better else -1.0
        lost = sign * (original.value - self.value)
        if self.statistics is None or original.statistics is None:
            return lost, None
        return lost, standard_error(self.metric, self.statistics, original.statistics)

    @property
    def correct(self) -> int:
        predictions, labels = self._classes()
        return int((predictions == labels).sum())

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100.0 * self.correct / len(self._classes()[1])

    def _classes(self) -> tuple[Tensor, Tensor]:
        if self.predictions is None or self.labels is None or self.labels.dim() != 1:
            raise InputError(f"metric={self.metric.name}: no accuracy without a class for each sample; read value")
        return self.predictions, self.labels

    @property
    def images_per_second(self) -> float:
        return self.samples / self.seconds

    def agreement(self, other: Evaluation) -> float:
        """Percent of samples on which both say the same class.

        Raises:
            ValueError: the two saw different numbers of samples, or tell no classes apart.
        """
        ours, theirs = self.predictions, other.predictions
        if ours is None or theirs is None or len(ours) != len(theirs):
            counts = ["no" if part is None else len(part) for part in (ours, theirs)]
            raise ValueError(f"{counts[0]} and {counts[1]} predictions cannot be compared")
        return 100.0 * (ours == theirs).to(torch.float64).mean().item()

    @property
    def logit_sqnr(self) -> float | None:
        """Signal-to-quantization-noise ratio of the outputs, dB, inf where nothing changed; None without float."""
        return None if self.power is None else value_of(LogitSQNR(), self.power)


@final
class Scoring:
    """What is kept of each batch: numbers of every sample, written into tensors of all samples. Small ones that stay
    between the large ones that come and go would leave holes in the heap that nothing fits into."""

    def __init__(self, metric: Metric, images: ImageSet, original: Original | None) -> None:
        self.metric, self.labels, self.samples, self.original = metric, images.labels, len(images), original
        self.once = isinstance(metric, Custom) and not metric.said.mean  # over all samples at once
        self.whole: dict[int, tuple[Any, Any]] = {}
        self.kept: dict[str, Tensor] = {}
        self.turn = Lock()

    def __call__(self, start: int, inputs: Tensor | None, outputs: Any) -> None:
        stop = start + len(pytree.tree_leaves(outputs)[0])
        labels = None if self.labels is None else self.labels[start:stop]
        original = None if self.original is None else self.original(start, stop, inputs)
        if self.once:
            self.whole[start] = (_on_cpu(outputs), None if original is None else _on_cpu(original))
        else:
            self._keep("statistics", start, self.metric.statistics(Batch(outputs, original, inputs, labels)))
        logits = self._logits(outputs)
        if logits is not None and logits.dim() == 2:  # the classes of all positions would fill the memory
            self._keep("predictions", start, logits.argmax(dim=1))
        if original is not None:
            self._keep("power", start, power_of(self.metric, outputs, original))
            float_logits = self._logits(original)
            if logits is not None and float_logits is not None:
                self._keep("same_class", start, same_class(logits, float_logits))

    def _keep(self, name: str, start: int, rows: Tensor) -> None:
        with self.turn:
            if name not in self.kept:
                self.kept[name] = torch.empty((self.samples, *rows.shape[1:]), dtype=rows.dtype)
        self.kept[name][start : start + len(rows)] = rows

    def _logits(self, outputs: Any) -> Tensor | None:
        """The tensor with a number for each class, (n, classes, ...); None where nothing says that there is one."""
        if self.metric.reads_classes:
            return self.metric.read(outputs)
        labels = self.labels
        if labels is None or labels.is_floating_point() or labels.dim() != 1:
            return None
        found = named_outputs(outputs) if self.metric.output is None else {"": self.metric.read(outputs)}
        (only,) = found.values() if len(found) == 1 else (None,)
        return only if only is not None and only.dim() == 2 and only.shape[1] > 1 else None

    def evaluation(self, seconds: float) -> Evaluation:
        measured = self._over_all() if self.once else None
        statistics, predictions, same, power = map(self.kept.get, ("statistics", "predictions", "same_class", "power"))
        return Evaluation(predictions, self.labels, seconds, self.metric, statistics, measured, same, power)

    def _over_all(self) -> float:
        assert isinstance(self.metric, Custom)
        parts = [self.whole[start] for start in sorted(self.whole)]
        outputs, original = ([pair[i] for pair in parts] for i in range(2))
        self.whole.clear()
        return self.metric.over_all(Batch(_joined(outputs), _joined(original), None, self.labels))


def _on_cpu(outputs: Any) -> Any:
    return pytree.tree_map(Tensor.cpu, outputs)


def _joined(parts: list[Any]) -> Any:
    """Outputs of all samples, in the network's own structure; None if they are."""
    return None if parts[0] is None else pytree.tree_map(lambda *pieces: torch.cat(pieces), parts[0], *parts[1:])
