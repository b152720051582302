"""Divergence, ratio and drop, from logits alone."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from quant_sweep.evaluation.logit_damage import DamageSum, logit_kl

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
