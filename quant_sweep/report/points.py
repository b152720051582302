"""Runs as `Tracker.runs()` gives them -> points with an accuracy, its interval and a status.

One key may have several runs: a failed or killed attempt, a forced repetition. The newest finished one counts; without
one, the newest. A number is either measured or not there, never 0 in place of something that failed.

The interval is the score interval of a binomial proportion (Wilson 1927, JASA 22, p. 209-212): unlike p +- 1.96 sigma
it stays inside [0, 100] and is sound near 100 %. It speaks of the choice of test images only.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import isfinite, sqrt
from statistics import NormalDist

import pandas as pd

CONFIDENCE = 0.95


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracy in percent, measured on `images` images."""

    percent: float
    images: int

    @property
    def interval(self) -> tuple[float, float]:
        """Low and high end of the 95 % score interval, percent."""
        return wilson(self.percent / 100 * self.images, self.images)

    def __str__(self) -> str:
        return self._text("")

    @property
    def percentage(self) -> str:
        """The same with a percent sign, as a table of its own unit has it."""
        return self._text("%")

    def _text(self, unit: str) -> str:
        low, high = self.interval
        return f"{self.percent:.2f}{unit} ({low:.2f}–{high:.2f})"


def wilson(correct: float, images: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion, in percent.

    Raises:
        ValueError: not 0 <= correct <= images, or no images.
    """
    if images < 1 or not 0 <= correct <= images * (1 + 1e-9):
        raise ValueError(f"{correct} correct of {images} images is no proportion")
    z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
    share = min(correct / images, 1.0)
    scale = 1 + z * z / images
    center = (share + z * z / (2 * images)) / scale
    half = z / scale * sqrt(share * (1 - share) / images + z * z / (4 * images * images))
    return 100 * max(center - half, 0.0), 100 * min(center + half, 1.0)


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

    @property
    def accuracy(self) -> Accuracy | None:
        """What a finished run measured."""
        return self._measured("accuracy")

    @property
    def float_accuracy(self) -> Accuracy | None:
        """What the float model reaches on the same images."""
        return self._measured("float_accuracy")

    def _measured(self, name: str) -> Accuracy | None:
        if self.status != "finished" or name not in self.metrics or "test_images" not in self.metrics:
            return None
        return Accuracy(self.metrics[name], int(self.metrics["test_images"]))


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
    for name in ("accuracy", "float_accuracy"):
        percent = point.metrics.get(name, 0.0)
        if not 0.0 <= percent <= 100.0:
            return f"{name}={percent:g}: no percentage"
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
