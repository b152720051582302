"""Second moments against those of all rows at once in float64, and the weights that fit them against least squares."""

import pytest
import torch
from torch import Tensor

from quant_sweep.recovery import moments as of_moments
from quant_sweep.recovery.moments import Moments, combined, damped, fitted


@pytest.fixture(params=[128, 2], ids=["one block", "three blocks"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(of_moments, "_BLOCK", request.param)


def rows(far: float = 0.0) -> tuple[Tensor, Tensor]:
    """x, float32 (groups, n, k), and y, (groups, n, out), which have to do with each other.

    The mean of each channel is another one, up to 15 times `far`.
    """
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 60, 5, generator=generator) + torch.randn(2, 60, 1, generator=generator)
    y = x[..., :3] + torch.randn(2, 60, 3, generator=generator)
    first, other = torch.arange(1.0, 11).reshape(2, 1, 5), torch.arange(-5.0, 16, 4).reshape(2, 1, 3)
    return x + far * first, y + far * other


@pytest.mark.parametrize("far", [0.0, 3.0, 3000.0])
def test_batches_add_up_to_covariances(far: float) -> None:
    """As exact where the means are large against what varies, as after a ReLU, and differ from channel to channel."""
    x, y = rows(far)
    moments = Moments()
    for part in (slice(0, 25), slice(25, 30), slice(30, 60)):
        moments.add(x[:, part], y[:, part])
    h, c = moments.centred()
    for group in range(2):
        both = torch.cat([x[group], y[group]], dim=1).double()
        wanted = torch.cov(both.T, correction=0)
        torch.testing.assert_close(h[group], wanted[:5, :5], rtol=1e-4, atol=1e-4)
        torch.testing.assert_close(c[group], wanted[:5, 5:], rtol=1e-4, atol=1e-4)


def test_parts_combine_to_all_rows() -> None:
    x, y = rows(far=5.0)
    whole, parts = Moments(), [Moments() for _ in range(3)]
    whole.add(x, y)
    for moments, part in zip(parts, (slice(0, 10), slice(10, 15), slice(15, 60)), strict=True):
        for i in range(part.start, part.stop, 5):
            moments.add(x[:, i : i + 5], y[:, i : i + 5])
    for found, wanted in zip(combined(parts), whole.centred(), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_means_are_those_of_all_rows() -> None:
    x, y = rows(far=5.0)
    moments = Moments()
    for part in (slice(0, 25), slice(25, 60)):
        moments.add(x[:, part], y[:, part])
    for found, wanted in zip(moments.means(), (x, y), strict=True):
        torch.testing.assert_close(found, wanted.double().mean(1), rtol=1e-6, atol=1e-6)


def test_damping_is_a_part_of_the_mean_diagonal() -> None:
    h = torch.diag(torch.tensor([1.0, 2.0, 6.0], dtype=torch.float64))[None].repeat(2, 1, 1)
    h[1] = 0.0
    wanted = torch.stack([h[0] + 0.5 * 3.0 * torch.eye(3), 0.5 * torch.eye(3, dtype=torch.float64)])
    torch.testing.assert_close(damped(h, 0.5), wanted)


@pytest.mark.parametrize("damp", [1e-9, 0.1, 10.0])
def test_the_fitted_weights_are_those_of_damped_least_squares(damp: float) -> None:
    x, y = rows()
    moments = Moments()
    moments.add(x, y)
    h, c = moments.centred()
    w = torch.randn(2, 3, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found = fitted(w, h, c, damp)
    for group in range(2):
        a, b = (v[group].double() - v[group].double().mean(0) for v in (x, y))
        pull = (60 * damp * h[group].diagonal().mean()).sqrt() * torch.eye(5, dtype=torch.float64)
        wanted = torch.linalg.lstsq(torch.cat([a, pull]), torch.cat([b, pull @ w[group].T])).solution.T
        torch.testing.assert_close(found[group], wanted, rtol=1e-4, atol=1e-4)
