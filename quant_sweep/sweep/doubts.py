"""Numbers that are legal and almost surely wrong: each gets one line in the log, and the run goes on."""

from __future__ import annotations

import functools
import logging
import math
from collections.abc import Iterator, Mapping
from typing import Any

from quant_sweep.evaluation.evaluate import Evaluation

log = logging.getLogger(__name__)

_LEAST_STD = 1e-3  # of pixel values in [0, 1]; less is the std of other units, or of one colour
_LEAST_PERCENTILE = 90.0
_FEWEST_IMAGES = 32
_ABOVE_CHANCE = 3.0  # standard deviations of guessing


@functools.cache
def say_once(text: str) -> None:
    """Log a warning the first time that this process has it; the points of a sweep mostly share theirs."""
    log.warning("%s", text)


def doubts(settings: Mapping[str, Any]) -> Iterator[str]:
    """What is doubtful in the settings of a run, `key=value: why`."""
    std = settings["data"].get("std") or ()
    if any(value < _LEAST_STD for value in std):
        shown = ",".join(f"{value:g}" for value in std)
        yield f"data.std=[{shown}]: below {_LEAST_STD:g}; the std of pixel values in [0, 1] is mostly 0.1 to 0.4"
    for group in ("observer", "weight_observer"):
        percentile = settings[group].get("percentile", 100.0)
        if percentile < _LEAST_PERCENTILE:
            yield f"{group}.percentile={percentile:g}: clips {100 - percentile:g} % of the values at each end"
    images = settings["calibration"]["images"]
    if images < _FEWEST_IMAGES:
        yield f"calibration.images={images}: ranges found on so few images are too narrow; take 100 or more"
    if settings["weight_observer"]["name"] == "moving_average":
        yield "weight_observer=moving_average: a weight is seen once, so that this is minmax"
    if settings["observer"]["name"] == "moving_average" and images <= settings["calibration"]["batch_size"]:
        yield "observer=moving_average: all calibration images are one batch, so that this is minmax"


def is_chance(evaluation: Evaluation, classes: int) -> bool:
    """Whether a network says no more about its images than guessing would."""
    share, images = 1 / classes, evaluation.samples
    return evaluation.accuracy / 100 <= share + _ABOVE_CHANCE * math.sqrt(share * (1 - share) / images)
