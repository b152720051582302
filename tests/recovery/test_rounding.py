"""Rounding a layer's weights: the fast way against loops that anybody would write, and against all codes there are."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from quant_sweep.recovery import rounding
from quant_sweep.recovery.rounding import (
    Levels,
    cost,
    descend,
    gptq,
    least_squared_error_scale,
    nearest,
    round_weights,
    scale_without_clipping,
)

TERNARY = Levels(-1, 1, True)


def case(seed: int, groups: int = 1, channels: int = 3, k: int = 6, correlated: bool = True) -> tuple[Tensor, Tensor]:
    """Weights (groups, channels, k) and the second moments of random rows, (groups, k, k)."""
    generator = torch.Generator().manual_seed(seed)
    w = torch.randn(groups, channels, k, generator=generator, dtype=torch.float64)
    rows = torch.randn(groups, 4 * k, k, generator=generator, dtype=torch.float64)
    if correlated:
        rows += 2 * torch.randn(groups, 4 * k, 1, generator=generator, dtype=torch.float64)
    return w, rows.transpose(1, 2) @ rows / (4 * k) + 0.01 * torch.eye(k, dtype=torch.float64)


def slow_gptq(w: Tensor, h: Tensor, scale: float, levels: Levels) -> Tensor:
    """One channel, one weight after another: round it, then solve for all others anew."""
    order = h.diagonal().argsort(descending=True).tolist()
    w, q = w.clone(), torch.zeros_like(w)
    for i, k in enumerate(order):
        q[k] = (w[k] / scale).round().clamp(levels.qmin, levels.qmax)
        rest = order[i + 1 :]
        if rest:  # minimise (d_rest, d_k) H (d_rest, d_k)^T with d_k given
            off = w[k] - q[k] * scale
            w[rest] += torch.linalg.solve(h[rest][:, rest], h[rest, k] * off)
    return q


def slow_descent(w: Tensor, h: Tensor, q: Tensor, scale: float, levels: Levels) -> Tensor:
    """One channel: try every value of every code."""
    q = q.clone()
    for k in range(len(q)):
        costs = {}
        for code in range(levels.qmin, levels.qmax + 1):
            q[k] = code
            error = w - q * scale
            costs[code] = float(error @ h @ error)
        q[k] = min(costs, key=costs.__getitem__)
    return q


@pytest.fixture(params=[64, 4], ids=["one block", "many blocks"], autouse=True)
def block(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounding, "_BLOCK", request.param)


@pytest.mark.parametrize("groups", [1, 3])
@pytest.mark.parametrize("bits", [2, 4])
def test_gptq_and_descent_are_those_of_the_slow_twin(groups: int, bits: int) -> None:
    w, h = case(seed=bits, groups=groups, k=11)
    levels = Levels(-(2 ** (bits - 1)) + 1, 2 ** (bits - 1) - 1, True)
    scale = least_squared_error_scale(w, levels)
    q, costs = gptq(w, h, scale, levels)
    torch.testing.assert_close(costs, cost(w, h, q, scale))
    moved = descend(w, h, q, scale, levels)
    for g, channel in itertools.product(range(groups), range(3)):
        one = w[g, channel], h[g]
        s = float(scale[g, channel])
        assert torch.equal(q[g, channel], slow_gptq(*one, s, levels))
        assert torch.equal(moved[g, channel], slow_descent(*one, q[g, channel], s, levels))


@pytest.mark.parametrize("start", ["zeros", "lowest", "random"])
@pytest.mark.parametrize("groups", [1, 3])
def test_one_sweep_of_descent_is_that_of_the_slow_twin_from_any_codes(groups: int, start: str) -> None:
    """Codes far from good ones, so that nearly all of them move, and what one moves tells on all after it."""
    w, h = case(seed=9, groups=groups, k=11)
    levels = Levels(-4, 3, True)
    scale = 0.7 * least_squared_error_scale(w, levels)
    drawn = torch.randint(-4, 4, w.shape, generator=torch.Generator().manual_seed(0)).double()
    q = {"zeros": torch.zeros_like(w), "lowest": torch.full_like(w, -4.0), "random": drawn}[start]
    before = q.clone()
    moved = descend(w, h, q, scale, levels)
    assert torch.equal(q, before), "what it is given stays"
    for g, channel in itertools.product(range(groups), range(3)):
        twin = slow_descent(w[g, channel], h[g], q[g, channel], float(scale[g, channel]), levels)
        assert torch.equal(moved[g, channel], twin)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_scale_is_refitted_to_codes_only_where_they_have_one_above_0(per_channel: bool) -> None:
    """s = q H w / q H q, over the channels that share it. Codes of 0, of the wrong sign, or at right angles to the
    weights have none, and keep theirs."""
    w = torch.tensor([[[2.0, 4.0], [1.0, -3.0]]], dtype=torch.float64)
    h = torch.tensor([[[2.0, 1.0], [1.0, 3.0]]], dtype=torch.float64)
    old = torch.full((1, 2), 0.3, dtype=torch.float64)
    levels = Levels(-4, 3, per_channel)
    # Codes, q H w of each of the two weights, with H w = (8, 14) and (-1, -8), and q H q.
    cases = [
        ((1.0, 2.0), (36.0, -17.0), 18.0),
        ((1.0, 0.0), (8.0, -1.0), 2.0),
        ((0.0, 0.0), (0.0, 0.0), 0.0),
        ((-1.0, -1.0), (-22.0, 9.0), 7.0),
        ((7.0, -4.0), (0.0, 25.0), 90.0),
        ((-8.0, 1.0), (-50.0, 0.0), 115.0),
    ]
    for one, other in itertools.product(cases, repeat=2):
        q = torch.tensor([[one[0], other[0]]], dtype=torch.float64)
        along, size = [one[1][0], other[1][1]], [one[2], other[2]]
        if not per_channel:
            along, size = [sum(along)] * 2, [sum(size)] * 2
        wanted = [a / b if a > 0 and b > 0 else 0.3 for a, b in zip(along, size, strict=True)]
        found = rounding._refitted(w, h, q, old, levels)
        torch.testing.assert_close(found, torch.tensor([wanted], dtype=torch.float64))


def test_every_code_is_the_best_when_descent_comes_to_rest() -> None:
    w, h = case(seed=1, k=9)
    scale = least_squared_error_scale(w, TERNARY)
    q = nearest(w, scale, TERNARY)
    costs = [cost(w, h, q, scale)]
    for _ in range(20):
        q = descend(w, h, q, scale, TERNARY)
        costs.append(cost(w, h, q, scale))
        assert bool((costs[-1] <= costs[-2] + 1e-9).all())
    assert torch.equal(q, descend(w, h, q, scale, TERNARY))
    assert float(costs[-1].sum()) < float(costs[0].sum())


@pytest.mark.parametrize("per_channel", [True, False])
@pytest.mark.parametrize("seed", range(4))
def test_the_cheapest_candidate_is_kept(per_channel: bool, seed: int) -> None:
    """Of the nearest codes, and those of GPTQ with each scale: for each channel, or for all of them together."""
    (w, h), levels = case(seed, groups=2), Levels(-2, 1, per_channel)
    base = least_squared_error_scale(w, levels)
    made = [(nearest(w, base, levels), base)]
    made += [(gptq(w, h, base * factor, levels)[0], base * factor) for factor in rounding._FACTORS]
    costs = torch.stack([cost(w, h, q, scale) for q, scale in made])
    found = cost(w, h, *round_weights(w, h, levels, sweeps=0))
    if per_channel:
        torch.testing.assert_close(found, costs.amin(dim=0))
    else:
        torch.testing.assert_close(found, costs[int(costs.sum(dim=(1, 2)).argmin())])


@given(seed=st.integers(0, 10_000))
def test_against_all_codes(seed: int) -> None:
    """3**5 ways to round a channel: what is found is no better than the best, and no worse than rounding."""
    w, h = case(seed, channels=2, k=5)
    q, scale = round_weights(w, h, TERNARY, sweeps=4)
    everything = torch.tensor(list(itertools.product([-1.0, 0.0, 1.0], repeat=5)), dtype=torch.float64)
    found = cost(w, h, q, scale)[0]
    for channel in range(2):
        one = w[:, channel : channel + 1]
        best = float(_least_over_scales(one[0, 0], h[0], everything).min())
        assert best - 1e-9 <= float(found[channel])
        plain = least_squared_error_scale(one, TERNARY)
        assert float(found[channel]) <= float(cost(one, h, nearest(one, plain, TERNARY), plain)) + 1e-9


def _least_over_scales(w: Tensor, h: Tensor, q: Tensor) -> Tensor:
    """The least cost of codes (n, k) over all scales, (n,): w H w - (q H w)^2 / q H q."""
    along, size = q @ h @ w, ((q @ h) * q).sum(dim=1)
    won = along.square() / size
    return w @ h @ w - torch.where((size > 0) & (along > 0), won, 0.0)


def test_the_best_of_all_codes_is_found_where_weights_do_not_interact() -> None:
    w, _ = case(seed=3, channels=4, k=5)
    h = torch.diag(torch.tensor([1.0, 2.0, 0.5, 3.0, 1.5], dtype=torch.float64))[None]
    scale = torch.full((1, 4), 0.7, dtype=torch.float64)
    assert torch.equal(gptq(w, h, scale, TERNARY)[0], nearest(w, scale, TERNARY))
    assert torch.equal(descend(w, h, torch.zeros_like(w), scale, TERNARY), nearest(w, scale, TERNARY))


@pytest.mark.parametrize("size", [1e-9, 1e9])
@pytest.mark.parametrize("per_channel", [True, False])
def test_how_large_the_inputs_are_does_not_matter(size: float, per_channel: bool) -> None:
    (w, h), levels = case(seed=7, groups=2), Levels(-2, 1, per_channel)
    q, scale = round_weights(w, h, levels, sweeps=4)
    other_q, other_scale = round_weights(w, size * h, levels, sweeps=4)
    assert torch.equal(other_q, q)
    torch.testing.assert_close(other_scale, scale)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("sweeps", [0, 3])
def test_one_scale_for_a_whole_tensor(groups: int, sweeps: int) -> None:
    w, h = case(seed=4, groups=groups)
    _, scale = round_weights(w, h, Levels(-4, 3, False), sweeps)
    assert scale.unique().numel() == 1


def test_the_first_scale_of_a_tensor_is_that_of_its_weights_in_one_channel() -> None:
    w, _ = case(seed=4, groups=2, k=20)
    one = least_squared_error_scale(w.reshape(1, 1, -1), Levels(-2, 1, True))
    torch.testing.assert_close(least_squared_error_scale(w, Levels(-2, 1, False)), one.expand(2, 3))


class Rounded(TorchDispatchMode):
    """Counts the calls that round tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.calls += func in (torch.ops.aten.round.default, torch.ops.aten.round_.default)
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("k", [3, 8, 11])
def test_each_weight_is_rounded_once(k: int) -> None:
    """Of all channels together: more would be the same, or another result, after much more work."""
    w, h = case(seed=8, groups=2, k=k)
    scale = least_squared_error_scale(w, TERNARY)
    with Rounded() as rounded:
        q, _ = gptq(w, h, scale, TERNARY)
    assert rounded.calls == k
    with Rounded() as rounded:
        descend(w, h, q, scale, TERNARY)
    assert rounded.calls == k


def test_the_first_scale_has_the_least_squared_error() -> None:
    w, _ = case(seed=5, k=40)
    scale = least_squared_error_scale(w, TERNARY)
    for factor in (0.5, 0.8, 1.25, 2.0):
        error = (w - nearest(w, scale, TERNARY) * scale[..., None]).square().sum(dim=2)
        other = (w - nearest(w, factor * scale, TERNARY) * factor * scale[..., None]).square().sum(dim=2)
        assert bool((error <= 1.01 * other).all())


@pytest.mark.parametrize("levels", [TERNARY, Levels(-2, 1, True), Levels(-8, 7, True), Levels(-2, 1, False)])
@pytest.mark.parametrize("sign", [1, -1])
def test_the_widest_scale_just_reaches_every_weight(levels: Levels, sign: int) -> None:
    w = sign * torch.tensor([[[0.3, -1.5, 6.0, 0.0], [0.1, 0.2, 0.4, 0.0]]], dtype=torch.float64)
    widest = scale_without_clipping(w, levels)
    needed = [max(max(v / levels.qmax, v / levels.qmin) for v in channel.tolist()) for channel in w[0]]
    if not levels.per_channel:
        needed = [max(needed)] * 2
    torch.testing.assert_close(widest, torch.tensor([needed], dtype=torch.float64))


def test_the_first_scale_is_anywhere_from_a_48th_of_the_widest_to_the_widest() -> None:
    """Weights on a grid need no clipping; one outlier among 25,000 is best clipped as far as can be. No scale is above
    the widest, even if the squared error would be smaller: the second channel has 12 weights that 49/48 would suit."""
    levels = Levels(-3, 3, True)
    w = torch.zeros(1, 3, 25_000, dtype=torch.float64)
    w[0, 0, :4] = torch.tensor([3.0, -2.0, 1.0, 0.0])
    w[0, 1, :13] = torch.tensor([3.0, *[2 * 49 / 48] * 12])
    w[0, 2] = 1.0
    w[0, 2, 0], w[0, 2, 1] = 3 * 48.0, 0.0
    assert least_squared_error_scale(0.5 * w, levels).tolist() == [[0.5, 0.5, 0.5]]


@pytest.mark.parametrize("levels", [TERNARY, Levels(-2, 1, True), Levels(-8, 7, False)])
def test_a_weight_of_zeros_stays_zero(levels: Levels) -> None:
    _, h = case(seed=6)
    q, scale = round_weights(torch.zeros(1, 3, 6, dtype=torch.float64), h, levels, sweeps=2)
    assert not q.any()
    assert bool((scale > 0).all() & scale.isfinite().all())
