"""Numbers that are legal and almost surely wrong get one line each."""

from __future__ import annotations

import logging

import pytest
import torch
from configured import composed

from quant_sweep.evaluation.evaluate import Evaluation
from quant_sweep.sweep.build import plain
from quant_sweep.sweep.doubts import doubts, is_chance, say_once


@pytest.mark.parametrize(
    ("overrides", "begins"),
    [
        (["data.std=[0.0005]"], "data.std=[0.0005]: below 0.001"),
        (["observer=fake_hist", "observer.percentile=80"], "observer.percentile=80: clips 20 %"),
        (["weight_observer=fake_hist", "weight_observer.percentile=51"], "weight_observer.percentile=51: "),
        (["calibration.images=31"], "calibration.images=31: "),
        (["weight_observer=moving_average"], "weight_observer=moving_average: "),
        (["observer=moving_average", "calibration.images=64"], "observer=moving_average: "),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_doubts(overrides: list[str], begins: str) -> None:
    (doubt,) = doubts(plain(composed(*overrides)))
    assert doubt.startswith(begins)


def test_no_doubts_about_the_defaults() -> None:
    assert list(doubts(plain(composed()))) == []


@pytest.mark.parametrize(("correct", "chance"), [(0, True), (100, True), (125, True), (130, False), (900, False)])
def test_chance(correct: int, chance: bool) -> None:
    labels = torch.zeros(1000, dtype=torch.int64)
    predictions = torch.cat([torch.zeros(correct), torch.ones(1000 - correct)]).to(torch.int64)
    assert is_chance(Evaluation(predictions, labels, 1.0), 10) is chance


def test_each_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(3):
        say_once("said once in this test")
    assert caplog.text.count("said once in this test") == 1
