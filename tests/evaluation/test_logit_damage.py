"""Divergence, ratio and drop, from logits alone."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from quant_sweep.evaluation.logit_damage import DamageSum, logit_kl
from quant_sweep.evaluation.metrics import PSNR, Agreement, Custom, LogitSQNR, Metric, SquaredError, Top1, metric

logits = st.lists(st.floats(-30, 30), min_size=3, max_size=3)


@given(logits, logits, st.floats(-100, 100))
def test_divergence(one: list[float], other: list[float], shift: float) -> None:
    z, y = torch.tensor([one]), torch.tensor([other])
    (kl,) = logit_kl(z, y).tolist()
    assert math.isfinite(kl)
    assert kl >= 0
    assert logit_kl(z, z).item() == 0
    # Pinsker's inequality, and softmax does not see what all logits have in common.
    p, q = torch.softmax(z.double(), 1), torch.softmax(y.double(), 1)
    assert kl >= ((p - q).abs().sum().item() ** 2) / 2 - 1e-12
    assert logit_kl(z.double() + shift, y.double()).item() == pytest.approx(kl, rel=1e-9, abs=1e-12)


def test_divergence_by_hand() -> None:
    """KL of (1/2, 1/4, 1/4) from (1/4, 1/4, 1/2), in nats: log 2 / 2 - log 2 / 4."""
    p, q = (torch.tensor([[*shares]]).log() for shares in ((0.5, 0.25, 0.25), (0.25, 0.25, 0.5)))
    assert logit_kl(p, q).item() == pytest.approx(math.log(2) / 4)
    assert logit_kl(p, torch.tensor([[0.0, -200.0, -200.0]])).isfinite()


@pytest.mark.parametrize("positions", [(), (5,), (2, 3), (2, 1, 3)], ids=str)
def test_divergence_of_several_positions_is_their_mean(positions: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    original, quantized = torch.randn(2, 3, 4, *positions, generator=generator)
    found = logit_kl(original, quantized)
    assert (found.shape, found.dtype) == ((3,), torch.float64)
    for sample, kl in enumerate(found.tolist()):
        z, y = (part[sample].double().numpy().reshape(4, -1) for part in (original, quantized))
        p, q = (np.exp(part) / np.exp(part).sum(axis=0) for part in (z, y))
        assert kl == pytest.approx((p * np.log(p / q)).sum(axis=0).mean(), rel=1e-9)


def test_batches_add_up() -> None:
    generator = torch.Generator().manual_seed(0)
    original, quantized = torch.randn(2, 20, 5, generator=generator)
    labels = torch.randint(0, 5, (20,), generator=generator)
    whole, parts = DamageSum(), DamageSum()
    whole.update(original, quantized, labels)
    for rows in torch.arange(20).split(7):
        parts.update(original[rows], quantized[rows], labels[rows])
    assert vars(parts.damage()) == pytest.approx(vars(whole.damage()))
    right, still_right = ((z.argmax(1) == labels).sum().item() for z in (original, quantized))
    assert whole.damage().drop == pytest.approx(5 * (right - still_right))
    assert whole.damage().logit_kl == pytest.approx(logit_kl(original, quantized).mean().item())


@metric(name="largest_side", unit="px", higher_is_better=False)
def largest_side(outputs: Tensor, _float: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).abs().amax(dim=1)


@metric(name="farthest", unit="px", higher_is_better=False, mean=False)
def farthest(outputs: Tensor, _float: Tensor, labels: Tensor) -> Tensor:
    return (outputs - labels).abs().max()


Numbers = NDArray[np.float64]


def mse(a: Numbers, b: Numbers) -> float:
    return float(((a - b) ** 2).mean())


def far(outputs: Numbers, labels: Numbers) -> float:
    return float(np.abs(outputs - labels).max(axis=1).mean())


# What each metric loses from float outputs to quantized ones, given the inputs and the labels.
DROPS: dict[str, tuple[Metric, Callable[[Numbers, Numbers, Numbers, Numbers], Any]]] = {
    "agreement": (Agreement(), lambda z, y, _x, _t: 100 * (z.argmax(1) != y.argmax(1)).mean()),
    "mse of labels": (SquaredError(), lambda z, y, _x, t: mse(y, t) - mse(z, t)),
    "mse of inputs": (SquaredError(target="inputs"), lambda z, y, x, _t: mse(y, x) - mse(z, x)),
    "mse of float": (SquaredError(target="float"), lambda z, y, _x, _t: mse(y, z)),
    "psnr": (PSNR(), lambda z, y, _x, t: 10 * math.log10(mse(y, t) / mse(z, t))),
    "one's own": (Custom(function=largest_side), lambda z, y, _x, t: far(y, t) - far(z, t)),
    "one's own of all samples": (Custom(function=farthest), lambda *_: None),
    "logit_sqnr": (LogitSQNR(), lambda *_: None),  # no number for float
}


@pytest.mark.parametrize("name", DROPS)
def test_the_drop_of_every_metric(name: str) -> None:
    generator = torch.Generator().manual_seed(0)
    original, noise, inputs, labels = torch.randn(4, 20, 5, generator=generator)
    quantized = original + 0.5 * noise
    measured, twin = DROPS[name]
    total = DamageSum(measured)
    for rows in torch.arange(20).split(7):
        total.update(original[rows], quantized[rows], labels[rows], inputs[rows])
    found = total.damage()
    z, y, x, t = (part.double().numpy() for part in (original, quantized, inputs, labels))
    wanted = twin(z, y, x, t)
    assert found.drop == (None if wanted is None else pytest.approx(wanted, rel=1e-6, abs=1e-6))
    assert (total.float_value is None) == (wanted is None)
    assert found.relative_error == pytest.approx(mse(y, z) / (z**2).mean(), rel=1e-6)
    assert found.logit_sqnr_db == pytest.approx(-10 * math.log10(found.relative_error))
    assert (found.logit_kl is None) == (not isinstance(measured, Agreement)), "only where the outputs are logits"


@pytest.mark.parametrize(("changed", "error"), [(0.0, 0.0), (0.5, 1.0)])
def test_relative_error_of_outputs_that_are_all_0(changed: float, error: float) -> None:
    total = DamageSum(Top1())
    total.update(torch.zeros(1, 2), torch.tensor([[changed, 0.0]]), torch.zeros(1, dtype=torch.int64))
    assert total.damage().relative_error == error
