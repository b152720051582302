"""What a metric is: statistics of every sample, and a smooth function of their mean.

Accuracy is the mean of zeros and ones, PSNR the logarithm of a mean, mean IoU a ratio of means. So one pass that keeps
a few numbers of every sample gives the value, its standard error and that of its paired difference to float, all by the
delta method: the first-order change of the value when a sample weighs more (Efron 1982, The Jackknife, the Bootstrap
and Other Resampling Plans, chapter 6). For a mean that is the usual standard error.

torchmetrics is not used here: it adds up over samples at once, so that neither intervals nor paired tests could be had
from it, and each formula is a line of torch. One of its metrics can be measured with `metric=custom`.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.errors import InputError

Kind = Literal["proportion", "mean", "other"]
Need = Literal["classes", "dense classes", "targets", "nothing"]


@dataclass(frozen=True, eq=False)
class Batch:
    """Some samples, and what two networks make of them.

    Attributes:
        outputs: what the network returns: tensors (n, ...), in its own structure.
        original: the same of the float network; None where nobody compares.
        inputs: normalised, (n, ...); None where the metric does not read them.
        labels: (n, ...), whole numbers or targets; None where the data has none.
    """

    outputs: Any
    original: Any
    inputs: Any
    labels: Tensor | None


@dataclass(frozen=True)
class Metric(ABC):
    """Something to measure. All subclasses are final.

    Attributes:
        output: the tensor to read where a network returns several: a key, a position, or several with dots between;
            None takes the only floating one.
        name: under which runs keep it.
        unit: %, dB, or "".
        higher_is_better: the direction.
        kind: `proportion`: each sample is right or wrong; `mean` of a number for each sample; `other`.
        reads_classes: whether axis 1 of the tensor has a number for each class.
        has_float_value: whether it says something of the float network itself.
    """

    output: str | None = None

    name: ClassVar[str]
    unit: ClassVar[str]
    higher_is_better: ClassVar[bool]
    kind: ClassVar[Kind]
    reads_classes: ClassVar[bool] = False
    has_float_value: ClassVar[bool] = True
    needs: ClassVar[Need] = "nothing"

    @abstractmethod
    def statistics(self, batch: Batch) -> Tensor:
        """Numbers of each sample, float64 (n, k), any device."""

    def value(self, mean: Tensor) -> Tensor:
        """The metric, from the mean of the statistics over all samples, float64 (k,)."""
        return mean[0]

    def gradient(self, mean: Tensor) -> Tensor:
        """Of `value` by each mean, (k,)."""
        gradient = torch.zeros_like(mean)
        gradient[0] = 1.0
        return gradient

    def reads_inputs(self, labelled: bool) -> bool:
        """Whether `statistics` reads the inputs; of data with or without labels."""
        del labelled
        return False

    def check(self, batch: Batch, classes: int) -> None:
        """Refuse, before any work, outputs that cannot be read.

        Args:
            batch: a few samples; `original` are the model's own outputs.
            classes: how many the labels have; 0 where they have none.

        Raises:
            InputError: naming what is wrong and what is allowed.
        """
        self.read(batch.outputs)
        del classes

    def read(self, outputs: Any) -> Tensor:
        """The tensor that is measured, (n, ...).

        Raises:
            InputError: there are several and `output` names none of them.
        """
        if self.output is None and isinstance(outputs, Tensor):
            return outputs
        found = named_outputs(outputs)
        names = list(found) if self.output is None else [self.output]
        if len(names) == 1 and names[0] in found:
            return found[names[0]]
        why = "the network returns several tensors" if len(names) > 1 else "the network returns no such floating tensor"
        allowed = ", ".join(key or "null" for key in found) or "networks that return floating tensors"
        raise InputError(
            f"metric.output={'null' if self.output is None else self.output}: {why}; allowed are {allowed}"
        )


def named_outputs(outputs: Any) -> Mapping[str, Tensor]:
    """The floating tensors of what a network returns, by their keys and positions; "" for the only one without any."""
    leaves, _ = pytree.tree_flatten_with_path(outputs)
    return {
        ".".join(_key(part) for part in path): leaf
        for path, leaf in leaves
        if isinstance(leaf, Tensor) and leaf.is_floating_point()
    }


def _key(part: Any) -> str:
    return str(next(getattr(part, name) for name in ("key", "idx", "name") if hasattr(part, name)))


def value_of(metric: Metric, statistics: Tensor) -> float:
    """The metric over all samples; statistics (n, k)."""
    return float(metric.value(statistics.mean(dim=0)))


def standard_error(metric: Metric, statistics: Tensor, original: Tensor | None = None) -> float | None:
    """Of the metric over these samples; None where it cannot be told, from one sample or of no finite value.

    Args:
        statistics: (n, k).
        original: of the float network, for the same samples: the error of the difference instead.
    """
    if len(statistics) < 2 or not math.isfinite(value_of(metric, statistics)):
        return None
    influence = _influence(metric, statistics)
    if original is not None:
        influence = influence - _influence(metric, original)
    error = float(influence.std() / math.sqrt(len(statistics)))
    return error if math.isfinite(error) else None


def _influence(metric: Metric, statistics: Tensor) -> Tensor:
    """First-order change of the metric when a sample weighs more, times the number of samples, (n,)."""
    mean = statistics.mean(dim=0)
    return (statistics - mean) @ metric.gradient(mean)
