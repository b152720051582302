"""A person's own metric: any function of outputs, the float network's outputs and labels that says what it is.

    from quant_sweep import metric

    @metric(name="off_by", unit="px", higher_is_better=False)
    def off_by(outputs, float_outputs, labels):       # a number for each sample
        return (outputs["boxes"] - labels).abs().mean(dim=(1, 2))

`metric=custom metric.factory=my_package.metrics:off_by`. With `mean=True`, the default, it is called with one batch
after another and returns a number for each sample; then there are intervals and paired tests. With `mean=False` it is
called once, with all samples, and returns one number; all outputs are kept in memory for that.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar, final

import torch
from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.evaluation.metrics.base import Batch, Kind, Metric
from quant_sweep.runtime.callables import imported

Function = TypeVar("Function", bound=Callable[..., Any])
_ALLOWED = "a function under @quant_sweep.metric(name=..., unit=..., higher_is_better=...)"


@dataclass(frozen=True)
class _Said:
    """What a function says of itself."""

    name: str
    unit: str
    higher_is_better: bool
    mean: bool


def metric(*, name: str, unit: str = "", higher_is_better: bool, mean: bool = True) -> Callable[[Function], Function]:
    """Say what a function of (outputs, float_outputs, labels) measures.

    Args:
        name: under which runs keep it: letters, digits and _.
        unit: %, dB, whatever; % values lie between 0 and 100.
        higher_is_better: the direction.
        mean: whether it returns a number for each sample, whose mean is the metric.
    """
    if not name.replace("_", "").isalnum():
        raise InputError(f"metric.name={name!r}: allowed are letters, digits and _")

    def say(function: Function) -> Function:
        function.quant_sweep_metric = _Said(name, unit, higher_is_better, mean)  # type: ignore[attr-defined]
        return function

    return say


@final
@dataclass(frozen=True)
class Custom(Metric):
    """What a person's function measures.

    Attributes:
        function: under `metric`.
        kwargs: further keyword arguments for it.
    """

    function: Callable[..., Any] = field(kw_only=True)
    kwargs: Mapping[str, Any] = field(default_factory=dict, kw_only=True)

    @functools.cached_property
    def said(self) -> _Said:
        said: _Said = self.function.quant_sweep_metric  # type: ignore[attr-defined]
        return said

    @property
    def name(self) -> str:  # type: ignore[override]
        return self.said.name

    @property
    def unit(self) -> str:  # type: ignore[override]
        return self.said.unit

    @property
    def higher_is_better(self) -> bool:  # type: ignore[override]
        return self.said.higher_is_better

    @property
    def kind(self) -> Kind:  # type: ignore[override]
        return "mean" if self.said.mean else "other"

    @property
    def digest(self) -> str:
        """Hash of its source, so that a changed function is another metric; of its name where there is no source."""
        try:
            source = inspect.getsource(self.function)
        except (OSError, TypeError):
            source = f"{self.function.__module__}.{getattr(self.function, '__qualname__', '')}"
        return hashlib.sha256(source.encode()).hexdigest()

    def statistics(self, batch: Batch) -> Tensor:
        made = torch.as_tensor(self._called(batch)).detach().cpu().to(torch.float64)
        count = len(next(iter(_leaves(batch.outputs))))
        if made.shape != (count,):
            raise InputError(
                f"metric.factory: {self.name} returned {tuple(made.shape)} for {count} samples; a number for each is "
                "needed, or mean=False for one number over all samples"
            )
        return made[:, None]

    def over_all(self, batch: Batch) -> float:
        """The metric of all samples, where it is no mean."""
        return float(torch.as_tensor(self._called(batch)))

    def check(self, batch: Batch, classes: int) -> None:
        del classes
        if self.said.mean:
            self.statistics(batch)

    def _called(self, batch: Batch) -> Any:
        outputs, original = batch.outputs, batch.original
        if self.output is not None:
            outputs, original = self.read(outputs), None if original is None else self.read(original)
        return self.function(outputs, original, batch.labels, **self.kwargs)


def _leaves(outputs: Any) -> list[Tensor]:
    from torch.utils import _pytree as pytree

    return [leaf for leaf in pytree.tree_leaves(outputs) if isinstance(leaf, Tensor)]


def custom(*, factory: str, kwargs: Mapping[str, Any] | None = None, output: str | None = None) -> Custom:
    """Import `factory`, package.module:function.

    Raises:
        InputError: it cannot be imported, or does not say what it measures.
    """
    function = imported("metric.factory", factory)
    if not isinstance(getattr(function, "quant_sweep_metric", None), _Said):
        raise InputError(f"metric.factory={factory}: it does not say what it measures; allowed is {_ALLOWED}")
    return Custom(output, function=function, kwargs=dict(kwargs or {}))
