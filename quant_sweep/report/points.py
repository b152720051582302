"""Runs as `Tracker.runs()` gives them -> points with what they measured, what was lost against float and a status.

One key may have several runs: a failed or killed attempt, a forced repetition. The newest finished one counts; without
one, the newest. A number is either measured or not there, never 0 in place of something that failed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from math import isfinite, sqrt

import pandas as pd

from quant_sweep.report.measured import Drop, Measured, Metric, Z, paired

_ABOVE_CHANCE = 3.0  # standard deviations of guessing


@dataclass(frozen=True, order=True)
class Bits:
    """Widths of weights and activations; ordered by what they cost together."""

    total: int
    weight: int
    activation: int

    @classmethod
    def of(cls, params: dict[str, str]) -> Bits:
        """Read from `weight_bits` and `activation_bits`, or `bits` for both."""
        weight, activation = (int(params.get(f"{side}_bits") or params["bits"]) for side in ("weight", "activation"))
        if min(weight, activation) < 1:
            raise ValueError(f"{weight} and {activation} are no widths")
        return cls(weight + activation, weight, activation)

    def __str__(self) -> str:
        return str(self.weight) if self.weight == self.activation else f"W{self.weight}A{self.activation}"


@dataclass(frozen=True)
class Point:
    """The run that counts for one key."""

    run_id: str
    key: str
    status: str
    error: str
    start_time: int
    params: dict[str, str]
    metrics: dict[str, float]
    tags: dict[str, str]

    @cached_property
    def metric(self) -> Metric:
        """What the run measures."""
        return Metric.of(self.tags)

    @property
    def samples(self) -> int:
        """Of the test set; 0 where the run does not say."""
        return int(self.metrics.get("test_images", 0))

    @property
    def measured(self) -> Measured | None:
        """What a finished run measured."""
        return self._measured(self.metric.name)

    @property
    def original(self) -> Measured | None:
        """What the float model reaches on the same samples."""
        return self._measured(f"float_{self.metric.name}")

    @property
    def drop(self) -> Drop | None:
        """What was lost against float."""
        measured, original = self.measured, self.original
        if measured is None or original is None:
            return None
        return Drop(self.metric, self.metric.lost(original.value, measured.value), self._interval_of_drop(measured))

    def _interval_of_drop(self, measured: Measured) -> tuple[float, float] | None:
        if self.metric.name == "agreement" and measured.interval:  # float agrees with itself
            return 100 - measured.interval[1], 100 - measured.interval[0]
        if self.metric.proportion and {"lost", "gained"} <= set(self.metrics):
            return paired(self.metrics["lost"], self.metrics["gained"], self.samples)
        if "drop_error" in self.metrics and "drop" in self.metrics:
            half = Z * self.metrics["drop_error"]
            return self.metrics["drop"] - half, self.metrics["drop"] + half
        return None

    @property
    def guesses_in_float(self) -> str | None:
        """Why the float model says no more of the samples than guessing would: then nothing can be lost. None if it
        does."""
        original = self.original
        if original is not None and self.metrics.get("float_classes_predicted") == 1 and self.samples > 1:
            return f"The float model says one class for all {self.samples:,} samples"
        if original is None or self.metric.name == "agreement" or not self._is_chance(original, "float_chance"):
            return None
        chance = self.metrics["float_chance"]
        return f"The float model reaches {original.with_unit} {self.metric.label}, and guessing {chance:.2f}%"

    @property
    def collapsed(self) -> str | None:
        """Why the quantized network has nothing left of what the float model knows; None if it has."""
        measured, counted = self.measured, self.metrics
        if measured is None:
            return None
        if counted.get("classes_predicted") == 1 and counted.get("float_classes_predicted", 1) > 1:
            return f"one class for all samples, where float has {counted['float_classes_predicted']:.0f}"
        if self._is_chance(measured, "chance"):
            chance = counted["chance"]
            return f"{self.metric.label} {measured.value:.2f} %, where guessing reaches {chance:.2f} %"
        if "chance" not in counted and counted.get("logit_sqnr", 1.0) <= 0:
            return f"outputs with {counted['logit_sqnr']:.1f} dB, which is more noise than signal"
        return None

    def _is_chance(self, measured: Measured | None, chance: str) -> bool:
        if measured is None or chance not in self.metrics or measured.samples < 1:
            return False
        share = self.metrics[chance] / 100
        error = (
            100 * sqrt(max(share * (1 - share), 0.0) / measured.samples) if measured.error is None else measured.error
        )
        return measured.value <= self.metrics[chance] + _ABOVE_CHANCE * error

    def _measured(self, name: str) -> Measured | None:
        if self.status != "finished" or name not in self.metrics or self.samples < 1:
            return None
        return Measured(self.metric, self.metrics[name], self.samples, self.metrics.get(f"{name}_error"))


def read_points(runs: pd.DataFrame, kind: str) -> list[Point]:
    """The runs of a kind that count, one per key, in the order of their keys."""
    chosen: dict[str, Point] = {}
    for record in runs[runs["kind"] == kind].to_dict("records"):
        point = _point({str(name): value for name, value in record.items()})
        chosen[point.key] = newest([point, chosen.get(point.key, point)])
    return [chosen[key] for key in sorted(chosen)]


def usable(points: Iterable[Point], widths: bool = True) -> tuple[list[Point], list[tuple[Point, str]]]:
    """Points that can be shown, and those that cannot, each with the reason: others may have written to the store.

    Args:
        widths: whether a point must say how many bits it has.
    """
    kept, refused = [], []
    for point in points:
        why = _why_unusable(point, widths)
        if why is None:
            kept.append(point)
        else:
            refused.append((point, why))
    return kept, refused


def _why_unusable(point: Point, widths: bool) -> str | None:
    if widths:
        try:
            Bits.of(point.params)
        except (KeyError, ValueError):
            given = {name: point.params.get(name) for name in ("bits", "weight_bits", "activation_bits")}
            return "no bit widths: " + ", ".join(f"{name}={value}" for name, value in given.items())
    images = point.metrics.get("test_images", 1.0)
    if not (isfinite(images) and images >= 1 and images == int(images)):
        return f"test_images={images:g}: no number of images"
    for name in (point.metric.name, f"float_{point.metric.name}"):
        value = point.metrics.get(name, 0.0)
        if not isfinite(value):
            return f"{name}={value:g}: no number"
        if point.metric.unit == "%" and not 0.0 <= value <= 100.0:
            return f"{name}={value:g}: no percentage"
    return None


def newest(points: Iterable[Point]) -> Point:
    """The newest finished point; without a finished one, the newest."""
    return max(points, key=lambda point: (point.status == "finished", point.start_time, point.run_id))


def _point(record: dict[str, object]) -> Point:
    def there(prefix: str) -> dict[str, object]:
        return {
            name.removeprefix(prefix): value
            for name, value in record.items()
            if name.startswith(prefix) and pd.notna(value)  # type: ignore[call-overload]
        }

    return Point(
        run_id=str(record["run_id"]),
        key=str(record["key"]),
        status=str(record["status"]),
        error=str(record["error"]),
        start_time=int(float(str(record["start_time"]))) if pd.notna(record["start_time"]) else 0,  # type: ignore[call-overload]
        params={name: str(value) for name, value in there("params.").items()},
        metrics={name: float(str(value)) for name, value in there("metrics.").items()},
        tags={name: str(value) for name, value in there("tags.").items()},
    )
