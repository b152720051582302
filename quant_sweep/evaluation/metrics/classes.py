"""Metrics of networks that tell classes apart: axis 1 of what they return has a number for each class."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, final

import torch
from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.evaluation.metrics.base import Batch, Kind, Metric, Need


@final
@dataclass(frozen=True)
class Top1(Metric):
    """Percent of samples whose largest logit is that of their label."""

    name: ClassVar[str] = "accuracy"
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = True
    kind: ClassVar[Kind] = "proportion"
    reads_classes: ClassVar[bool] = True
    needs: ClassVar[Need] = "classes"

    def statistics(self, batch: Batch) -> Tensor:
        assert batch.labels is not None
        return _percent(self.read(batch.outputs).argmax(dim=1).cpu() == batch.labels)

    def check(self, batch: Batch, classes: int) -> None:
        check_logits(self.read(batch.outputs), classes)


@final
@dataclass(frozen=True)
class TopK(Metric):
    """Percent of samples whose label is among the k largest logits.

    Attributes:
        k: from 1, less than there are classes.
    """

    k: int = 5

    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = True
    kind: ClassVar[Kind] = "proportion"
    reads_classes: ClassVar[bool] = True
    needs: ClassVar[Need] = "classes"

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"top{self.k}_accuracy"

    def statistics(self, batch: Batch) -> Tensor:
        assert batch.labels is not None
        largest = self.read(batch.outputs).topk(self.k, dim=1).indices.cpu()  # (n, k)
        return _percent((largest == batch.labels[:, None]).any(dim=1))

    def check(self, batch: Batch, classes: int) -> None:
        check_logits(self.read(batch.outputs), classes)
        if isinstance(self.k, bool) or not 1 <= self.k < classes:
            raise InputError(
                f"metric.k={self.k}: allowed are whole numbers from 1 to {classes - 1}, less than the classes"
            )


@final
@dataclass(frozen=True)
class Agreement(Metric):
    """Percent of samples to which the float network gives the same class; of dense outputs, of their positions."""

    name: ClassVar[str] = "agreement"
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = True
    kind: ClassVar[Kind] = "proportion"
    reads_classes: ClassVar[bool] = True

    def statistics(self, batch: Batch) -> Tensor:
        return 100.0 * same_class(self.read(batch.outputs), self.read(batch.original))[:, None]

    def check(self, batch: Batch, classes: int) -> None:
        logits = self.read(batch.outputs)
        if logits.dim() < 2 or logits.shape[1] < 2:
            raise InputError(
                f"metric=agreement: the network returns {_shape(logits)}, which tells no classes apart: "
                "(n, classes, ...) is needed; allowed are metric=logit_sqnr and mse"
            )
        del classes


@final
@dataclass(frozen=True)
class MeanIoU(Metric):
    """Mean over classes of intersection / union of what is predicted and what is labelled, over all positions of all
    samples; a class that neither has is left out. Everingham et al. 2010, IJCV 88, p. 303-338.

    Attributes:
        ignore: positions with this label do not count; None counts all.
    """

    ignore: int | None = 255

    name: ClassVar[str] = "miou"
    unit: ClassVar[str] = "%"
    higher_is_better: ClassVar[bool] = True
    kind: ClassVar[Kind] = "other"
    reads_classes: ClassVar[bool] = True
    needs: ClassVar[Need] = "dense classes"

    def statistics(self, batch: Batch) -> Tensor:
        """Intersection and union of every class, (n, 2 * classes)."""
        logits = self.read(batch.outputs)
        assert batch.labels is not None
        count, labels = logits.shape[1], batch.labels.to(logits.device, torch.int64).flatten(1)
        predicted = logits.argmax(dim=1).flatten(1)
        valid = labels < count if self.ignore is None else (labels != self.ignore) & (labels < count)
        own, true = (_counts(part, valid, count) for part in (predicted, labels))
        both = _counts(predicted, valid & (predicted == labels), count)
        return torch.cat([both, own + true - both], dim=1).cpu()

    def value(self, mean: Tensor) -> Tensor:
        both, union = mean.chunk(2)
        there = union > 0
        return 100.0 * (both[there] / union[there]).mean()

    def gradient(self, mean: Tensor) -> Tensor:
        both, union = mean.chunk(2)
        there = union > 0
        by_both = torch.where(there, 100.0 / int(there.sum()) / union, 0.0)
        by_union = torch.where(there, -by_both * both / union, 0.0)
        return torch.cat([by_both, by_union])

    def check(self, batch: Batch, classes: int) -> None:
        logits, labels = self.read(batch.outputs), batch.labels
        if labels is None or labels.dim() < 2 or logits.shape[2:] != labels.shape[1:] or logits.shape[1] < classes:
            raise InputError(
                f"metric=miou: the network returns {_shape(logits)} and labels are {_shape(labels)} of {classes} "
                f"classes; (n, {classes} or more, ...) and whole numbers (n, ...) with the same axes behind are needed"
            )


def check_logits(logits: Tensor, classes: int) -> None:
    """Accuracy needs one logit for each class of the samples.

    Raises:
        InputError: there are more or fewer.
    """
    if logits.shape[1:] != (classes,):
        raise InputError(f"returns a tensor {_shape(logits)}, but the images have {classes} classes: (n, {classes})")


def same_class(logits: Tensor, original: Tensor) -> Tensor:
    """Share of the positions of each sample to which both give the same class, float64 (n,)."""
    same = logits.argmax(dim=1) == original.to(logits.device).argmax(dim=1)
    return same.flatten(1).to(torch.float64).mean(dim=1).cpu() if same.dim() > 1 else same.to(torch.float64).cpu()


def _percent(right: Tensor) -> Tensor:
    return right.to(torch.float64)[:, None] * 100.0


def _counts(values: Tensor, valid: Tensor, classes: int) -> Tensor:
    """How often each class is there, of the valid positions of each sample, float64 (n, classes)."""
    counted = torch.where(valid, values, classes)  # (n, positions)
    counts = torch.zeros(len(values), classes + 1, dtype=torch.float64, device=values.device)
    ones = torch.ones_like(counted, dtype=torch.float64)
    return counts.scatter_add_(1, counted, ones)[:, :classes]


def _shape(tensor: Tensor | None) -> str:
    return "none" if tensor is None else f"({', '.join(map(str, ('n', *tensor.shape[1:])))})"
