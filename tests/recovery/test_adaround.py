"""Rounding up or down: against all ways to do it, and what it leaves alone."""

import itertools
import math

import numpy as np
import pytest
import torch
from layer_networks import LAYERS, inputs_of, on_grids
from small_networks import images, tiny
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.errors import InputError
from quant_sweep.recovery import AdaRound
from quant_sweep.recovery.adaround import _beta, rounded_up_or_down
from quant_sweep.recovery.recover import damages

ENDS = (-3, 3)


def slow_cost(target: Tensor, x: Tensor, codes: Tensor, scale: Tensor) -> Tensor:
    """Mean squared error of the output of each channel, row for row; codes (..., channels, k)."""
    return ((x @ (codes * scale - target).transpose(-1, -2)) ** 2).mean(-2)


def test_close_to_the_best_of_all_ways() -> None:
    mine, best, nearest = [], [], []
    for seed in range(4):
        generator = torch.Generator().manual_seed(seed)
        numbers = [torch.randn(*shape, generator=generator).double() for shape in ((200, 8), (8, 8), (3, 8))]
        x, w = numbers[0] @ (torch.eye(8) + 0.5 * numbers[1]), numbers[2]
        scale = (w.abs().amax(1, keepdim=True) / 3).expand(w.shape)
        h = (x.T @ x / len(x))[None]
        found = rounded_up_or_down(w[None], w[None], h, scale[None], ENDS, AdaRound())[0]
        below = (w / scale).floor()
        assert bool(((found == below) | (found == below + 1)).all())
        mine.append(slow_cost(w, x, found, scale).sum())
        nearest.append(slow_cost(w, x, (w / scale).round(), scale).sum())
        ways = torch.tensor(list(itertools.product((0.0, 1.0), repeat=8)), dtype=torch.float64)
        every = (below + ways[:, None]).clamp(*ENDS)  # (256, channels, k)
        best.append(slow_cost(w, x, every, scale).amin(0).sum())
        assert best[-1] - 1e-9 <= mine[-1] <= nearest[-1]
    lost = (sum(mine) - sum(best)) / (sum(nearest) - sum(best))
    assert lost < 0.4, "of what the best of all ways wins over rounding to nearest"


def case(seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Weights (2, 4, 12), others that are wanted, second moments (2, 12, 12), and scales that clip the largest."""
    generator = torch.Generator().manual_seed(seed)
    w, off = (torch.randn(2, 4, 12, generator=generator).double() for _ in range(2))
    x = torch.randn(2, 50, 12, generator=generator).double() + torch.randn(2, 50, 1, generator=generator)
    scale = (w.abs().amax(2, keepdim=True) / 3.4).expand(w.shape)
    return w, w + 0.1 * off, x.transpose(1, 2) @ x / 50, scale


def slow_twin(w: Tensor, target: Tensor, h: Tensor, scale: Tensor, settings: AdaRound) -> np.ndarray:
    """Equations 21 to 25 of the paper with their gradients written out, and Adam (arXiv:1412.6980, algorithm 1), in
    float64."""
    w, target, h, scale = (t.numpy() for t in (w, target, h, scale))
    below = np.floor(w / scale)
    p = (w / scale - below + 0.1) / 1.2
    v, first, second = np.log(p / (1 - p)), np.zeros_like(w), np.zeros_like(w)
    h = h / (np.sum(target @ h * target) / w.size)
    for step in range(settings.steps):
        sigmoid = 1 / (1 + np.exp(-v))
        stretched = 1.2 * sigmoid - 0.1
        up = np.clip(stretched, 0, 1)
        code = np.clip(below + up, *ENDS)
        gradient = 2 * (code * scale - target) @ h * scale * (code == below + up)
        if step >= 0.2 * settings.steps:
            beta = 2 + 18 * np.cos(np.pi / 2 * (step / settings.steps - 0.2) / 0.8) ** 2
            gradient -= settings.strength * 2 * beta * np.abs(2 * up - 1) ** (beta - 1) * np.sign(2 * up - 1)
        gradient *= 1.2 * sigmoid * (1 - sigmoid) * (stretched == up)
        first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
        corrected = first / (1 - 0.9 ** (step + 1)), second / (1 - 0.999 ** (step + 1))
        v -= settings.rate * corrected[0] / (np.sqrt(corrected[1]) + 1e-8)
    return np.clip(below + (v >= 0), *ENDS)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    "settings",
    [
        AdaRound(steps=1),
        AdaRound(steps=7, rate=0.3),
        AdaRound(steps=20),
        AdaRound(steps=20, strength=3.0),
        AdaRound(steps=100, strength=0.02),
    ],
    ids=lambda one: f"{one.steps} steps of {one.rate}, strength {one.strength}",
)
def test_the_codes_are_those_of_the_slow_twin(settings: AdaRound, seed: int) -> None:
    w, target, h, scale = case(seed)
    found = rounded_up_or_down(w, target, h, scale, ENDS, settings)
    assert found.tolist() == slow_twin(w, target, h, scale, settings).tolist()


@pytest.mark.parametrize("size", [1e-8, 1e8])
def test_how_large_the_inputs_are_does_not_matter(size: float) -> None:
    w, target, h, scale = case(seed=3)
    settings = AdaRound(steps=50)
    wanted = rounded_up_or_down(w, target, h, scale, ENDS, settings)
    assert torch.equal(rounded_up_or_down(w, target, size * h, scale, ENDS, settings), wanted)
    assert torch.equal(rounded_up_or_down(size * w, size * target, h, size * scale, ENDS, settings), wanted)


def test_the_exponent_falls_from_20_to_2_after_a_fifth_of_the_steps() -> None:
    assert [_beta(done) for done in (0.0, 0.1, 0.1999)] == [None] * 3
    wanted = {0.2: 20.0, 0.4: 11 + 9 / math.sqrt(2), 0.6: 11.0, 0.8: 11 - 9 / math.sqrt(2), 1.0: 2.0}
    assert {done: _beta(done) for done in wanted} == pytest.approx(wanted)


@pytest.mark.parametrize("kind", LAYERS)
def test_every_kind_of_layer(kind: str) -> None:
    torch.manual_seed(0)
    x = inputs_of(kind, 12)
    original, quantized = on_grids(nn.Sequential(LAYERS[kind]()).eval(), x, bits=3)
    made = AdaRound(steps=60).recover(original, quantized, [x])
    (weight,) = (q.name for q in original.weights)
    grid, w = made.qparams[weight], original.graph.constants[weight]
    assert torch.equal(grid.scale, quantized.qparams[weight].scale)
    scale = grid.scale.reshape(-1, *[1] * (w.dim() - 1))
    codes = quantize(made.graph.graph.constants[weight], grid)
    assert bool(((codes - w / scale).abs() <= 1 + 1e-5).all())
    torch.testing.assert_close(codes * scale, made.graph.graph.constants[weight])


def test_it_helps_images_that_it_did_not_see_and_is_seeded() -> None:
    original, quantized = on_grids(tiny(), images(64), bits=3)
    made = [AdaRound(steps=200, rows=500).recover(original, quantized, [images(64)]) for _ in range(2)]
    test = [images(64, seed=5)]
    assert damages(original, [made[0]], test) < damages(original, [quantized], test)
    for name, value in made[0].graph.graph.constants.items():
        assert torch.equal(value, made[1].graph.graph.constants[name])
    assert torch.is_grad_enabled()


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"rate": 0},
        {"rate": 100},
        {"strength": "x"},
        {"strength": -1.0},
        {"rows": 1.5},
        {"rows": 0},
        {"damp": 0.0},
        {"damp": 100.0},
        {"seed": -1},
    ],
)
def test_values_that_are_not_allowed(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(values))}=.*: allowed are"):
        AdaRound(**values)


def test_values_at_their_limits_are_allowed() -> None:
    AdaRound(steps=1, rate=99.9, strength=1e-9, rows=1, damp=99, seed=0)
