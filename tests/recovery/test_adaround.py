"""Rounding up or down: against all ways to do it, and what it leaves alone."""

import itertools

import pytest
import torch
from layer_networks import LAYERS, inputs_of, on_grids
from small_networks import images, tiny
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.errors import InputError
from quant_sweep.recovery import AdaRound
from quant_sweep.recovery.adaround import rounded_up_or_down
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


@pytest.mark.parametrize("values", [{"steps": 0}, {"rate": 0}, {"strength": "x"}, {"rows": 1.5}])
def test_values_that_are_not_allowed(values: dict[str, object]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(values))}=.*: allowed are"):
        AdaRound(**values)
