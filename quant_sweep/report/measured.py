"""What a run measured: a value of some metric, its interval, and what was lost against float.

Three kinds of interval, all of 95 % and all about the choice of test samples only. A proportion (accuracy, agreement)
has the score interval (Wilson 1927, JASA 22, p. 209-212), which stays inside [0, 100] and is sound near 100 %. What a
proportion lost against float comes from the samples that only one of both had right (Bonett and Price 2012, Journal of
Educational and Behavioral Statistics 37, p. 479-488), so that no change in 20 samples is not taken for no loss.
Everything else has its recorded standard error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt
from statistics import NormalDist

CONFIDENCE = 0.95
Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_LABELS = {"logit_sqnr": "logit SQNR", "mse": "MSE", "psnr": "PSNR", "miou": "mean IoU"}


@dataclass(frozen=True)
class Metric:
    """What is measured of a network.

    Attributes:
        name: as the run keeps it: accuracy, top5_accuracy, agreement, logit_sqnr, mse, a person's own.
        unit: %, dB, or "" if it has none.
        higher_is_better: whether more of it is better.
        proportion: a share of the samples, each of which is right or wrong.
    """

    name: str
    unit: str
    higher_is_better: bool
    proportion: bool = False

    @classmethod
    def of(cls, tags: Mapping[str, str]) -> Metric:
        """Read from the tags of a run; runs of before there was a choice have none, and measured the accuracy."""
        if "metric_name" not in tags:
            return ACCURACY
        higher, proportion = tags.get("metric_direction") != "lower", tags.get("metric_kind") == "proportion"
        return cls(tags["metric_name"], tags.get("metric_unit", ""), higher, proportion)

    @property
    def label(self) -> str:
        """In running text and over columns."""
        return _LABELS.get(self.name, self.name.replace("_", " "))

    @property
    def direction(self) -> str:
        """In brackets and captions."""
        return f"{'higher' if self.higher_is_better else 'lower'} is better"

    def shown(self, value: float, sign: bool = False) -> str:
        """A value, or with its sign a difference of two, without the unit."""
        plus = "+z" if sign else ""
        return format(value, f"{plus}.2f" if self.unit in ("%", "dB") else f"{plus.replace('z', '')}.4g")

    def goodness(self, value: float) -> float:
        """For comparing: the larger, the better."""
        return value if self.higher_is_better else -value

    def lost(self, original: float, value: float) -> float:
        """How much worse `value` is than `original`, in the metric's own unit; below 0 where it is better."""
        return self.goodness(original) - self.goodness(value)

    def near(self, original: float) -> tuple[float, str]:
        """What may be lost and still be the same network, and how that is called."""
        words = {"%": (1.0, "1 point"), "dB": (1.0, "1 dB")}
        return words.get(self.unit, (0.1 * abs(original), "10 %"))


ACCURACY = Metric("accuracy", "%", higher_is_better=True, proportion=True)


@dataclass(frozen=True)
class Measured:
    """A value of a metric on `samples` samples.

    Attributes:
        error: its standard error; of a proportion it follows from the value, of others it may be unknown.
    """

    metric: Metric
    value: float
    samples: int
    error: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        """Low and high end of the 95 % interval; None where it is unknown."""
        if self.metric.proportion:
            return wilson(self.value / 100 * self.samples, self.samples)
        return None if self.error is None else (self.value - Z * self.error, self.value + Z * self.error)

    def __str__(self) -> str:
        return self._text("")

    @property
    def with_unit(self) -> str:
        """The same with its unit, as a table that has no unit in its title shows it."""
        unit = self.metric.unit
        return self._text(unit if unit in ("", "%") else f" {unit}")

    def _text(self, unit: str) -> str:
        shown, interval = self.metric.shown, self.interval
        ends = f" ({shown(interval[0])}–{shown(interval[1])})" if interval else ""
        return f"{shown(self.value)}{unit}{ends}"


@dataclass(frozen=True)
class Drop:
    """What quantization lost against float on the same samples, in the metric's unit and direction: above 0 is worse.

    Attributes:
        interval: 95 %, of the paired difference; None where the run does not say how it varies over samples.
    """

    metric: Metric
    value: float
    interval: tuple[float, float] | None

    def is_within(self, most: float) -> bool:
        """Whether it is shown, with 95 % confidence, that no more than `most` is lost."""
        return self.interval is not None and self.interval[1] <= most

    def __str__(self) -> str:
        shown = self.metric.shown
        ends = f" ({shown(self.interval[0])} to {shown(self.interval[1])})" if self.interval else ""
        return f"{shown(self.value)}{ends}"


def wilson(correct: float, images: int) -> tuple[float, float]:
    """The 95 % score interval of a proportion, in percent.

    Raises:
        ValueError: not 0 <= correct <= images, or no images.
    """
    if images < 1 or not 0 <= correct <= images * (1 + 1e-9):
        raise ValueError(f"{correct} correct of {images} images is no proportion")
    share = min(correct / images, 1.0)
    scale = 1 + Z * Z / images
    center = (share + Z * Z / (2 * images)) / scale
    half = Z / scale * sqrt(share * (1 - share) / images + Z * Z / (4 * images * images))
    return 100 * max(center - half, 0.0), 100 * min(center + half, 1.0)


def paired(lost: float, gained: float, images: int) -> tuple[float, float]:
    """The 95 % interval of the difference of two proportions of the same samples, in points.

    Args:
        lost, gained: samples that only the first has right, and only the second.
    """
    b, c, n = (lost + 1) / (images + 2), (gained + 1) / (images + 2), images + 2
    half = Z * sqrt(max(b + c - (b - c) ** 2, 0.0) / n)
    return 100 * max(b - c - half, -1.0), 100 * min(b - c + half, 1.0)
