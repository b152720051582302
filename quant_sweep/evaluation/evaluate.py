"""A runnable network and samples -> what a metric says of it, class by sample, seconds; beside the float network.

On a CPU the threads take samples of their own through a network of codes, normalisation included: what one thread
computes in between leaves the others to spin. In a float network they share each layer, which is as fast, and asks
nothing of a person's own module, which may not be made for several threads; it is given as many samples as stay in the
cache. Of each batch a few numbers of every sample are kept, its outputs are not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quant_sweep.data import DataSet, ImageSet
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.errors import InputError, NotFiniteError
from quant_sweep.evaluation.metrics.base import Batch, Metric, named_outputs, standard_error, value_of
from quant_sweep.evaluation.metrics.classes import Top1, same_class
from quant_sweep.evaluation.metrics.own import Custom
from quant_sweep.evaluation.metrics.signals import LogitSQNR, power_of
from quant_sweep.graph import Network
from quant_sweep.graph.interpret import relative_difference
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.in_cache import images_that_stay_in_cache, largest_bytes_an_image
from quant_sweep.runtime.progress import counted, tracked
from quant_sweep.runtime.threads import Workers, in_parts

_STEP = "evaluation"  # as its progress is called
_ROUNDING = 1e-3  # relative difference that another order of sums may leave
# Of a float network, whose layers all threads share: about the second-level cache of two cores.
_CACHED_BYTES, _FEWEST_IMAGES = 2**21, 8

# The numbers of a batch's first sample and of the one behind its last, and its inputs -> the float outputs.
Original = Callable[[int, int, Tensor | None], Any]
_Result = TypeVar("_Result")


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


def evaluate(
    network: nn.Module,
    data: DataSet,
    images: ImageSet,
    batch_size: int,
    device: torch.device | str = "cpu",
    metric: Metric | None = None,
    original: nn.Module | Original | None = None,
) -> Evaluation:
    """Run a network over a set of samples.

    Args:
        network: normalised inputs to outputs; is moved to `device`.
        data: knows the normalisation.
        images: what to predict.
        batch_size: most samples per forward pass.
        metric: what to measure; None: the accuracy.
        original: the float network, or what gives its outputs; needed by metrics that compare with it.

    Raises:
        InputError: the metric cannot read the outputs.
        NotFiniteError: an output is NaN, which no argmax may turn into a class.
    """
    metric = metric or Top1()
    compared = _runs(original.to(device)) if isinstance(original, nn.Module) else original
    scoring = _Scoring(metric, images.labels, compared)
    began = time.perf_counter()
    parts = over_batches(network, data, images, batch_size, device, scoring)
    return scoring.evaluation(parts, time.perf_counter() - began)


@torch.inference_mode()
@full_precision()
def evaluate_original(
    original: Original, data: DataSet, images: ImageSet, batch_size: int, device: torch.device | str, metric: Metric
) -> Evaluation:
    """As `evaluate`, of what gives the float outputs itself.

    Args:
        original: is given inputs where it is no `KeptOutputs`, or where the metric reads them.
    """
    scoring, parts, began = _Scoring(metric, images.labels, original), [], time.perf_counter()
    reads = metric.reads_inputs(images.labels is not None) or not isinstance(original, KeptOutputs)
    for start in range(0, len(images), batch_size):
        stop = min(start + batch_size, len(images))
        inputs = data.normalize(images.images[start:stop].to(device)) if reads else None
        parts.append(scoring(start, inputs, original(start, stop, inputs)))
    return scoring.evaluation(parts, time.perf_counter() - began)


@final
@dataclass(frozen=True, eq=False)
class KeptOutputs:
    """What a network made of all samples: leaves (n, ...) of its structure."""

    leaves: Sequence[Tensor]
    structure: pytree.TreeSpec

    def __call__(self, start: int, stop: int, _inputs: Tensor | None) -> Any:
        return pytree.tree_unflatten([leaf[start:stop] for leaf in self.leaves], self.structure)


def keep_outputs(
    network: nn.Module, data: DataSet, images: ImageSet, batch_size: int, device: torch.device | str
) -> list[Tensor]:
    """The outputs of a network for all samples, leaf by leaf, (n, ...) each, on the CPU; raises as `over_batches`."""
    kept: list[Tensor] = []

    def keep(start: int, _inputs: Tensor, outputs: Any) -> None:
        leaves = pytree.tree_leaves(outputs)
        if not kept:
            kept.extend(torch.empty((len(images), *leaf.shape[1:]), dtype=leaf.dtype) for leaf in leaves)
        for whole, leaf in zip(kept, leaves, strict=True):
            whole[start : start + len(leaf)] = leaf

    over_batches(network, data, images, batch_size, device, keep)
    return kept


def _runs(original: nn.Module) -> Original:
    return lambda _start, _stop, inputs: original(inputs)


@full_precision()
def over_batches(
    network: nn.Module,
    data: DataSet,
    images: ImageSet,
    batch_size: int,
    device: torch.device | str,
    function: Callable[[int, Tensor, Any], _Result],
) -> list[_Result]:
    """A function of each batch: the number of its first sample, its inputs and what the network makes of them.

    Args:
        network: is moved to `device`.
        batch_size: most samples per forward pass.

    Raises:
        NotFiniteError: an output is NaN.
    """
    network = network.to(device)
    layout = torch.channels_last if _takes_channels_last(network, data, images, device) else torch.contiguous_format

    @torch.inference_mode()
    def run(part: Tensor) -> _Result:
        start, stop = part.tolist()
        inputs = data.normalize(images.images[start:stop].to(device)).contiguous(memory_format=layout)
        outputs = network(inputs)
        if any(bool(leaf.isnan().any()) for leaf in pytree.tree_leaves(outputs)):
            raise NotFiniteError("model: NaN logits in the evaluation; check model.checkpoint, data.mean and data.std")
        return function(start, inputs, outputs)

    if isinstance(network, NetworkOfCodes):
        parts = _ends(in_parts(torch.arange(len(images)), batch_size))
        return Workers().map(counted(run, _STEP, len(parts)), parts)
    if torch.device(device).type == "cpu":
        bytes_an_image = (
            network.graph.largest_bytes_an_image
            if isinstance(network, Network)
            else largest_bytes_an_image(network, data.normalize(images.images[:1]).contiguous(memory_format=layout))
        )
        batch_size = min(batch_size, images_that_stay_in_cache(bytes_an_image, _CACHED_BYTES, _FEWEST_IMAGES))
    parts = _ends(torch.arange(len(images)).split(batch_size))
    return [run(part) for part in tracked(parts, _STEP, len(parts))]


def _ends(parts: tuple[Tensor, ...]) -> list[Tensor]:
    """First sample of each part, and the one behind its last."""
    return [torch.stack([part[0], part[-1] + 1]) for part in parts]


_Numbers = tuple[Tensor | None, ...]  # statistics, predictions, same class, power: each (n, ...) or nothing


class _Scoring:
    """What is kept of each batch: numbers of every sample."""

    def __init__(self, metric: Metric, labels: Tensor | None, original: Original | None) -> None:
        self.metric, self.labels, self.original = metric, labels, original
        self.once = isinstance(metric, Custom) and not metric.said.mean  # over all samples at once
        self.whole: dict[int, tuple[Any, Any]] = {}

    def __call__(self, start: int, inputs: Tensor | None, outputs: Any) -> _Numbers:
        stop = start + len(pytree.tree_leaves(outputs)[0])
        labels = None if self.labels is None else self.labels[start:stop]
        original = None if self.original is None else self.original(start, stop, inputs)
        if self.once:
            self.whole[start] = (_on_cpu(outputs), None if original is None else _on_cpu(original))
            statistics = None
        else:
            statistics = self.metric.statistics(Batch(outputs, original, inputs, labels))
        logits = self._logits(outputs)
        predictions = None if logits is None else logits.argmax(dim=1).cpu()
        if original is None:
            return statistics, self._of_one_axis(predictions), None, None
        float_logits = self._logits(original)
        same = None if logits is None or float_logits is None else same_class(logits, float_logits)
        return statistics, self._of_one_axis(predictions), same, power_of(self.metric, outputs, original)

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

    @staticmethod
    def _of_one_axis(predictions: Tensor | None) -> Tensor | None:
        """A class for each sample; those of each position would fill the memory."""
        return predictions if predictions is not None and predictions.dim() == 1 else None

    def evaluation(self, parts: list[_Numbers], seconds: float) -> Evaluation:
        statistics, predictions, same, power = map(_together, zip(*parts, strict=True))
        measured = self._over_all() if self.once else None
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


def _together(pieces: tuple[Tensor | None, ...]) -> Tensor | None:
    there = [piece for piece in pieces if piece is not None]
    return torch.cat(there) if there else None


@torch.inference_mode()
def _takes_channels_last(network: nn.Module, data: DataSet, images: ImageSet, device: torch.device | str) -> bool:
    """Whether a network computes images whose channels lie side by side, which is up to 1.5 times as fast.

    A person's own module may use `view` or `as_strided`, which ask for another layout: one image is tried.
    """
    if images.images.dim() != 4:
        return False
    if isinstance(network, Network | NetworkOfCodes):
        return True
    image = data.normalize(images.images[:1].to(device)).contiguous()
    expected = network(image)
    try:
        found = network(image.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return relative_difference(found, expected) <= _ROUNDING
