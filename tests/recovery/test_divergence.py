"""How far outputs are apart, against the definitions in float64."""

import warnings

import numpy as np
import pytest
import torch

from quant_sweep.recovery.divergence import divergence


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("temperature", [None, 1.0, 2.5])
def test_of_logits_it_is_the_divergence_of_the_classes(classes: int, temperature: float | None) -> None:
    """sum p log(p / q) with p = softmax(wanted / T), times T^2; T = 4 unless told."""
    generator = torch.Generator().manual_seed(classes)
    wanted, found = (3 * torch.randn(5, classes, generator=generator).double() for _ in range(2))
    t = 4.0 if temperature is None else temperature
    p, q = (np.exp(logits.numpy() / t) for logits in (wanted, found))
    p, q = (e / e.sum(axis=1, keepdims=True) for e in (p, q))
    expected = t**2 * np.sum(p * np.log(p / q)) / 5
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        made = divergence(wanted, found) if temperature is None else divergence(wanted, found, temperature)
    assert float(made) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("shape", [(6,), (6, 1), (4, 3, 2), (2, 3, 4, 5)])
@pytest.mark.parametrize("size", [1e-6, 1.0, 1e6])
def test_of_other_outputs_it_is_the_squared_error_as_a_share(shape: tuple[int, ...], size: float) -> None:
    generator = torch.Generator().manual_seed(0)
    wanted, found = (size * torch.randn(shape, generator=generator).double() for _ in range(2))
    expected = np.mean((wanted.numpy() - found.numpy()) ** 2) / np.mean(wanted.numpy() ** 2)
    assert float(divergence(wanted, found)) == pytest.approx(expected, rel=1e-9)
    assert float(divergence(wanted, wanted)) == 0


def test_of_outputs_that_should_be_0_it_is_finite() -> None:
    zeros = torch.zeros(3, 1)
    assert float(divergence(zeros, zeros)) == 0
    assert 0 < float(divergence(zeros, zeros + 1e-6)) < float("inf")
