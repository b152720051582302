"""Learning from the float network: its derivatives, what it may change, and that it helps."""

from collections.abc import Callable, Mapping
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from layer_networks import on_grids, several
from small_networks import SlowTwin, cifar_resnet8, images, tiny
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from quant_sweep.arithmetic.affine import along_channels, quantize
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, QuantGraph
from quant_sweep.recovery import Bias, Distill, LearningTask, OnGrids, Reconstruct, Recovery
from quant_sweep.recovery.distill import _mirrored_and_shifted, _share_of_rate
from quant_sweep.recovery.learned import LearnedNetwork, _LearnedStep
from quant_sweep.recovery.recover import damages


def slow_step(x: Tensor, log_scale: Tensor, lowest: int, highest: int) -> Tensor:
    """The same with the derivatives that autograd makes of it."""
    v = x / log_scale.exp()
    clamped = v.clamp(lowest, highest)
    return (clamped + (clamped.round() - clamped).detach()) * log_scale.exp()


def test_derivatives_of_a_step() -> None:
    grid = QParams(torch.tensor(0.3), torch.tensor(3, dtype=torch.int32), QuantSpec(3))
    step = _LearnedStep(grid)
    x, weights = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 2, torch.linspace(-1, 1, 200)
    results = []
    for function in (step, lambda x: slow_step(x, step.log_scale, -3, 4)):
        leaf = x.clone().requires_grad_()
        made = function(leaf)
        (made * weights).sum().backward()
        results.append((made.detach(), leaf.grad, step.log_scale.grad.clone()))
        step.log_scale.grad = None
    for fast, slow in zip(*results, strict=True):
        torch.testing.assert_close(fast, slow, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("code", "beyond"), [(-3, -3.01), (4, 4.01)])
def test_the_ends_of_a_grid_lie_inside_it(code: int, beyond: float) -> None:
    """There many values lie at once, as behind a ReLU6. They are where they should be, q - v = 0."""
    step = _LearnedStep(QParams(torch.tensor(1.0), torch.tensor(3, dtype=torch.int32), QuantSpec(3)))
    for value, of_x, of_scale in ((float(code), 1.0, 0.0), (beyond, 0.0, float(code))):
        x = torch.tensor([value], requires_grad=True)
        step(x).sum().backward()
        assert (float(x.grad), float(step.log_scale.grad)) == (of_x, of_scale)
        step.log_scale.grad = None


@pytest.fixture(scope="module", params=[Fusion.none, Fusion.conv_bn_relu], ids=lambda fusion: fusion.value)
def network(request: pytest.FixtureRequest) -> tuple[QuantGraph, OnGrids]:
    return on_grids(several(), images(32), bits=3, fusion=request.param)


@pytest.mark.parametrize("codes", [False, True])
def test_begins_with_the_network_that_it_is_given(network: tuple[QuantGraph, OnGrids], codes: bool) -> None:
    _, quantized = network
    student = LearnedNetwork(quantized, codes, torch.device("cpu"))
    twin = SlowTwin(quantized.graph, quantized.qparams)
    x = images(8, seed=3)
    torch.testing.assert_close(student(x), twin.run(x), rtol=1e-3, atol=1e-3)
    assert {latent.requires_grad for latent in student.latents} == {codes}
    again = student.on_grids()
    for name, grid in again.qparams.items():
        torch.testing.assert_close(grid.scale, quantized.qparams[name].scale)
        assert grid.spec == quantized.qparams[name].spec
    for q in quantized.graph.weights:
        values = (state.graph.graph.constants[q.name] for state in (again, quantized))
        assert torch.equal(*(quantize(v, s.qparams[q.name]) for v, s in zip(values, (again, quantized), strict=True)))


def test_codes_are_learned_from_where_the_weights_lie(network: tuple[QuantGraph, OnGrids]) -> None:
    """But for those near to the middle between two codes, which would flip at once."""
    _, quantized = network
    student = LearnedNetwork(quantized, True, torch.device("cpu"))
    assert len(student.latents) == len(student.weight_names) > 0
    for latent, name in zip(student.latents, student.weight_names, strict=True):
        weight, grid = quantized.graph.graph.constants[name], quantized.qparams[name]
        codes = quantize(weight, grid)
        off = weight / along_channels(grid.scale, weight, 0) - codes
        torch.testing.assert_close(latent - codes, off.clamp(-0.45, 0.45), rtol=0, atol=1e-5)


@pytest.mark.parametrize("codes", [False, True])
def test_all_that_is_learned_lies_on_the_device_of_the_inputs(
    network: tuple[QuantGraph, OnGrids], codes: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU; tensors on `meta` have no values, so none are checked."""
    monkeypatch.setattr(QParams, "__post_init__", lambda _: None)
    monkeypatch.setattr(Tensor, "__bool__", lambda _: False)
    monkeypatch.setattr(Tensor, "__int__", lambda _: 0)
    _, quantized = network
    student = LearnedNetwork(quantized, codes, torch.device("meta"))
    tensors = [*student.parameters(), *student.buffers(), *student.codes_before]
    tensors += [grid.scale for grid in student.grids] + [step.log_scale for step in student.steps.values()]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert {value.device.type for value in quantized.graph.graph.constants.values()} == {"cpu"}


@pytest.mark.parametrize("codes", [False, True])
def test_what_is_learned_is_what_comes_out(network: tuple[QuantGraph, OnGrids], codes: bool) -> None:
    original, quantized = network
    made = Distill(codes=codes, steps=12, batch_size=16).recover(original, quantized, [images(32)])
    again = LearnedNetwork(made, codes, torch.device("cpu"))
    x = images(8, seed=3)
    torch.testing.assert_close(again(x), SlowTwin(made.graph, made.qparams).run(x), rtol=1e-3, atol=1e-3)
    same = 0
    for q in quantized.graph.weights:
        before, after = (
            quantize(state.graph.graph.constants[q.name], state.qparams[q.name]) for state in (quantized, made)
        )
        same += torch.equal(before, after)
        off = made.graph.graph.constants[q.name] / along_channels(made.qparams[q.name].scale, after, 0) - after
        assert float(off.abs().max()) < 0.5, "the nearest code is the one that was learned"
    assert same == len(quantized.graph.weights) or codes
    zero_points = (state.qparams["input"].zero_point for state in (quantized, made))
    assert torch.equal(*zero_points)


def test_codes_stay_on_the_grid_however_far_they_are_learned(network: tuple[QuantGraph, OnGrids]) -> None:
    """Beyond an end of it they count as that end, and nothing draws them further."""
    _, quantized = network
    student = LearnedNetwork(quantized, True, torch.device("cpu"))
    with torch.no_grad():
        for latent in student.latents:
            latent.mul_(3.0)
    x = images(8, seed=3)
    made = student.on_grids()
    found = student(x)
    torch.testing.assert_close(found, SlowTwin(made.graph, made.qparams).run(x), rtol=1e-3, atol=1e-3)
    found.square().sum().backward()
    for latent, grid in zip(student.latents, student.grids, strict=True):
        outside = (latent < grid.spec.qmin) | (latent > grid.spec.qmax)
        assert bool((latent < grid.spec.qmin).any())
        assert bool((latent > grid.spec.qmax).any())
        assert float(latent.grad[outside].abs().max()) == 0.0


# Of the logarithm of a weight's scale, a step, by its bits.
RATES = {2: 0.005, 3: 0.005, 4: 0.005, 5: 0.0025, 6: 0.00125, 8: 0.0003125}


@cache
def tiny_on_grids(bits: int) -> tuple[QuantGraph, OnGrids]:
    return on_grids(tiny(), images(16), bits=bits)


@pytest.mark.parametrize("rate", [1.0, 0.5])
@pytest.mark.parametrize(("weights", "activations"), [((2, 3, 4), 5), ((8, 5, 6), 3), ((8, 8, 8), 4), ((), 6)], ids=str)
def test_the_first_step_changes_everything_by_its_rate(weights: tuple[int, ...], activations: int, rate: float) -> None:
    """Adam's first step is the rate, whatever the derivative; of one step alone the rate is the highest.

    Args:
        weights: bits of each layer's weight; none of them is on a grid if there are none.
        activations: bits.
        rate: that multiplies all others.
    """
    original, quantized = tiny_on_grids(activations)
    names = [q.name for q in original.weights]
    grids = {name: grid for name, grid in quantized.qparams.items() if name not in names}
    for name, bits in zip(names, weights, strict=bool(weights)):
        grids[name] = tiny_on_grids(bits)[1].qparams[name]
    before = OnGrids(quantized.graph, grids)
    made = Distill(codes=True, steps=1, rate=rate).recover(original, before, [images(16)])
    old, new = (LearnedNetwork(state, True, torch.device("cpu")) for state in (before, made))

    def check(a: Tensor, b: Tensor, wanted: float) -> None:
        assert float((b - a).detach().abs().max()) == pytest.approx(rate * wanted, rel=0.1)

    for name, step in old.steps.items():
        check(step.log_scale, new.steps[name].log_scale, 2 * RATES[activations])
    assert len(old.biases) == 3
    for a, b in zip(old.biases, new.biases, strict=True):
        check(a, b, RATES[min(weights, default=8)])
    for a, b, bits in zip(old.scales, new.scales, weights, strict=True):
        check(a, b, RATES[bits])
    for a, b, q, bits in zip(old.latents, new.latents, old.codes_before, weights, strict=True):
        inside = (a - q).abs() < 0.4  # further out a learned code is not handed on as it is
        check(a[inside], b[inside], 0.02 if bits == 2 else 0.01)


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize(
    ("network", "begin"),
    [(tiny, None), (tiny, Bias()), (cifar_resnet8, Reconstruct(rows=2000))],
    ids=["plain", "bias", "reconstruct"],
)
def test_it_helps_images_that_it_did_not_see(network, begin: Recovery | None, codes: bool) -> None:
    original, quantized = on_grids(network(), images(64), bits=3)
    before = quantized if begin is None else begin.recover(original, quantized, [images(64)])
    made = Distill(codes=codes, steps=60).recover(original, before, [images(64)])
    test = [images(64, seed=5)]
    assert damages(original, [made], test) < damages(original, [before], test)


def test_steps_of_activations_alone_are_learned_where_weights_are_in_float() -> None:
    original, quantized = on_grids(tiny(), images(64), bits=3)
    weights = {q.name for q in original.weights}
    before = OnGrids(quantized.graph, {name: grid for name, grid in quantized.qparams.items() if name not in weights})
    made = Distill(steps=40).recover(original, before, [images(64)])
    assert made.qparams.keys() == before.qparams.keys()
    assert damages(original, [made], [images(64, seed=5)]) < damages(original, [before], [images(64, seed=5)])


def test_is_seeded() -> None:
    original, quantized = on_grids(tiny(), images(16), bits=3)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(torch.seed())
        made = Distill(steps=3, seed=seed).recover(original, quantized, [images(16)])
        results.append(made.qparams["input"].scale)
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


class KilledAfter:
    """Keeps every state, and ends the process, so to say, after some steps."""

    def __init__(self, steps: int) -> None:
        self.left = steps
        self.state: dict[str, Tensor] | None = None

    def read(self) -> dict[str, Tensor] | None:
        return self.state

    def write(self, state: Callable[[], Mapping[str, Tensor]]) -> None:
        self.state = {name: value.clone() for name, value in state().items()}
        self.left -= 1
        if self.left == 0:
            raise KeyboardInterrupt


@pytest.mark.parametrize("codes", [False, True])
@pytest.mark.parametrize("after", [1, 5, 9])
def test_goes_on_where_it_was_interrupted(codes: bool, after: int) -> None:
    """To the same result, whatever torch's own random numbers are; steps that are done are not done again."""
    original, quantized = on_grids(tiny(), images(16), bits=3)
    method, inputs = Distill(codes=codes, steps=10, batch_size=4), images(24)
    whole = method.learn(original, quantized, LearningTask(inputs))
    kept = KilledAfter(after)
    with pytest.raises(KeyboardInterrupt):
        method.learn(original, quantized, LearningTask(inputs, kept))
    torch.manual_seed(torch.seed())
    kept.left = -1
    parts = method.learn(original, quantized, LearningTask(inputs, kept))
    assert -1 - kept.left == 10 - after
    for name, grid in whole.qparams.items():
        assert torch.equal(grid.scale, parts.qparams[name].scale)
    for name, value in whole.graph.graph.constants.items():
        assert torch.equal(value, parts.graph.graph.constants[name])


def test_every_input_is_seen_before_any_a_second_time() -> None:
    seen: list[int] = []

    class Numbers:
        def __len__(self) -> int:
            return 10

        def __getitem__(self, numbers: Tensor) -> Tensor:
            seen.extend(numbers.tolist())
            return images(10)[numbers]

    original, quantized = on_grids(tiny(), images(16), bits=3)
    Distill(steps=5, batch_size=4).learn(original, quantized, LearningTask(Numbers()))
    assert sorted(seen[-20:-10]) == sorted(seen[-10:]) == list(range(10))
    assert seen[-20:-10] != seen[-10:]


@pytest.mark.parametrize(
    ("height", "width", "down", "along"), [(8, 8, 1, 1), (8, 16, 1, 2), (17, 7, 2, 0), (40, 33, 4, 4)]
)
def test_images_are_mirrored_and_shifted_and_nothing_else(height: int, width: int, down: int, along: int) -> None:
    """By an eighth of each side, and 4 pixels, at most; every such image comes."""
    x = torch.arange(1.0, 2 * height * width + 1).reshape(1, 2, height, width)
    moved = _mirrored_and_shifted(x.expand(1500, -1, -1, -1), torch.Generator().manual_seed(0))
    whole = F.pad(x[0], (along, along, down, down))
    allowed = {
        bytes(view[:, i : i + height, j : j + width].contiguous().numpy().data)
        for view in (whole, whole.flip(2))
        for i in range(2 * down + 1)
        for j in range(2 * along + 1)
    }
    assert len(allowed) == 2 * (2 * down + 1) * (2 * along + 1)
    assert {bytes(one.contiguous().numpy().data) for one in moved} == allowed


@pytest.mark.parametrize("x", [images(3), images(3).to(memory_format=torch.channels_last)])
def test_images_stay_as_they_are_without_augmentation(x: Tensor) -> None:
    made = Distill(augment=False)._augmented(x, seed=0)
    assert torch.equal(made, x)
    assert made.is_contiguous()
    assert not torch.equal(Distill()._augmented(x, seed=0), x)


def test_images_are_augmented_on_the_device_where_they_lie() -> None:
    """Fake tensors have a device and no values; operations refuse those of two devices."""
    with FakeTensorMode() as mode:
        moved = Distill()._augmented(mode.from_tensor(images(4)).to("cuda"), seed=0)
    assert (moved.device.type, moved.shape) == ("cuda", (4, 3, 16, 16))


def test_each_step_augments_by_a_seed_of_its_own() -> None:
    _, seeds = Distill(steps=1000)._drawn(10)
    assert len(set(seeds.tolist())) == 1000


def test_inputs_that_are_no_images() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4)).eval()
    x, test = (torch.randn(64, 6, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1))
    original, quantized = on_grids(model, x, bits=3)
    made = Distill(steps=40).recover(original, quantized, [x])
    assert damages(original, [made], [test]) < damages(original, [quantized], [test])


def test_the_rate_rises_and_falls() -> None:
    shares = [_share_of_rate(step, 100) for step in range(100)]
    assert shares[:6] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0, 1.0])
    assert shares[5:] == sorted(shares[5:], reverse=True)
    assert 0 < shares[-1] < 0.001
    assert _share_of_rate(0, 1) == 1


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"codes": "off"}, "codes='off': allowed are true and false"),
        ({"steps": 0}, "steps=0: allowed are whole numbers from 1"),
        ({"images": 0}, "images=0: allowed are whole numbers from 1"),
        ({"batch_size": 0}, "batch_size=0: allowed are whole numbers from 1"),
        ({"batch_size": 1.5}, r"batch_size=1\.5: "),
        ({"seed": -1}, "seed=-1: allowed are whole numbers from 0"),
        ({"rate": -1}, "rate=-1: allowed are numbers from 0"),
        ({"rate": 1000}, "rate=1000: allowed are numbers from 0 to below 1000"),
        ({"rate": True}, "rate=True: allowed are numbers from 0"),
        ({"rate": float("nan")}, "rate=nan: allowed are numbers from 0"),
        ({"temperature": 0.5}, r"temperature=0\.5: allowed are numbers from 1"),
        ({"temperature": "2"}, "temperature='2': allowed are numbers from 1"),
    ],
)
def test_values_that_are_not_allowed(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Distill(**values)


def test_the_lowest_and_highest_values_are_allowed() -> None:
    lowest = Distill(steps=1, batch_size=1, images=1, seed=0, rate=0.0, temperature=1.0)
    assert (lowest.rate, lowest.temperature) == (0.0, 1.0)
    assert Distill(rate=999.9, temperature=999).rate == 999.9
