"""The numbers carried by hand are the network's own, however the layer is shaped."""

import copy
from typing import Any

import pytest
import torch
from explained import SYMMETRIC, odd, subject
from small_networks import SlowTwin, images, tiny
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.engines import Engine, Int8, Integer, Simulate
from quant_sweep.engines.onednn import why_not_exact
from quant_sweep.explain import Subject, explain
from quant_sweep.explain.by_hand import carry_some
from quant_sweep.explain.carried import Carried
from quant_sweep.explain.dataflow import find_layer, node_of
from quant_sweep.explain.explanation import Explanation
from quant_sweep.explain.integer_layer import IntegerLayer
from quant_sweep.explain.recording import record
from quant_sweep.graph import Fusion
from quant_sweep.quantization.scheme import AFFINE

CASES = [("tiny", layer) for layer in ("conv1", "conv2", "linear")] + [("odd", layer) for layer in "abcde"]


def made(kind: str, **more: Any) -> Subject:
    return subject(tiny() if kind == "tiny" else odd(), **more)


def explained(made: Subject, layer: str) -> Explanation:
    return explain(made, layer, [images(2, seed=5)], {})


def carried(made: Subject, layer: str, batch: Tensor | None = None) -> tuple[Carried, ...]:
    """The numbers alone, without the study of the tensors, which takes its time."""
    flow = find_layer(made.graph, made.qparams, layer)
    batch = images(2, seed=5) if batch is None else batch
    return carry_some(IntegerLayer.of(flow), record(made.graph, made.qparams, made.network, batch, flow))


def tensors(network: nn.Module, batch: Tensor) -> dict[str, Tensor]:
    """By node, as a run node by node of somebody else gives them."""
    found: dict[str, Tensor] = {}

    class Spy(torch.fx.Interpreter):
        def run_node(self, n: torch.fx.Node) -> Any:
            found[n.name] = super().run_node(n)
            return found[n.name]

    with torch.no_grad():
        Spy(network).run(batch)
    return found


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_hand_and_simulation_agree(kind: str, layer: str, fusion: Fusion, bits: int) -> None:
    subject = made(kind, fusion=fusion, bits=bits)
    found = carried(subject, layer)
    step = find_layer(subject.graph, subject.qparams, layer).step
    network = Simulate().build(subject.graph, subject.qparams)
    simulated = tensors(network, images(2, seed=5))[node_of(step.out)]
    assert found
    for number in found:
        assert number.simulated == simulated[number.place]
        if step.out.grid is None:
            assert number.real == pytest.approx(number.simulated, abs=_bias_step(subject, layer))
        else:
            assert number.requantization is not None
            assert number.simulated_code == int(quantize(simulated, step.out.grid)[number.place])
            assert abs(number.requantization.code - number.simulated_code) <= 1


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_all_codes_agree(layer: str) -> None:
    (agreement,) = explained(made("tiny"), layer).agreements
    assert (agreement.other, agreement.compared) == ("simulate", 2 * 6 * 16 * 16)
    assert agreement.largest <= 1
    assert agreement.differing < agreement.compared / 10


def _bias_step(subject: Subject, layer: str) -> float:
    """Half a step of the accumulator: the bias is rounded to it."""
    flow = find_layer(subject.graph, subject.qparams, layer)
    return float(flow.x_grid.scale * flow.weight_grid.scale.max()) / 2 + 1e-5


def test_scheme_of_the_original_study() -> None:
    subject = made("tiny", bits=4, scheme=SYMMETRIC)
    found = explained(subject, "conv2")
    assert all(number.correction == 0 for number in found.numbers), "zero_point 0 needs none"
    assert found.agreements[0].largest <= 1
    assert len(found.channels.scale) == 1


NO_KERNELS = pytest.mark.skipif(why_not_exact() is not None, reason="no exact integer kernels here")


@pytest.mark.parametrize(
    "engine", [pytest.param(Int8(), marks=NO_KERNELS, id="int8"), pytest.param(Integer(), id="integer")]
)
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_engine_with_codes_of_its_own(engine: Engine, layer: str) -> None:
    """Deep in the network the inputs are the engine's, so its output codes follow from them."""
    found = explained(made("tiny", bits=4, engine=engine), layer)
    assert [agreement.other for agreement in found.agreements] == ["simulate", type(engine).__name__.lower()]
    assert all(agreement.largest <= 1 for agreement in found.agreements)
    assert all(number.engine_code is not None for number in found.numbers)


@pytest.mark.parametrize("fusion", list(Fusion))
def test_float_results_are_the_models_own(fusion: Fusion) -> None:
    """Held against the model that nobody traced or folded, through hooks."""
    model = tiny()
    seen: dict[str, Tensor] = {}
    hooks = {"relu": model.relu, "linear": model.linear, "conv1": model.conv1}
    for name, module in hooks.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.clone()))
    with torch.no_grad():
        model(images(2, seed=5))
    ours = copy.deepcopy(model)
    for module in ours.modules():
        module._forward_hooks.clear()
    subject = made("tiny", fusion=fusion)
    for number in carried(subject, "linear"):
        assert number.original == pytest.approx(float(seen["linear"][number.place]), abs=1e-5)
    for number in carried(subject, "conv1"):
        final = number.original if fusion is Fusion.conv_bn_relu else number.after[-1].original
        assert final == pytest.approx(float(seen["relu"][number.place]), abs=1e-5)
        if fusion is Fusion.none:
            assert number.original == pytest.approx(float(seen["conv1"][number.place]), abs=1e-5)


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_a_pocket_calculator_finds_the_same(kind: str, layer: str) -> None:
    """Every line follows from those above it, in whole numbers of any size."""
    subject = made(kind, bits=8)
    terms = subject.graph.module.get_parameter(f"{layer}.weight")[0].numel()
    for number in carried(subject, layer):
        assert len(number.terms) == terms
        assert number.products == sum(term.x_code * term.weight_code for term in number.terms)
        assert number.accumulator == number.products - number.correction + number.bias_code
        _check_requantization(number)


def _check_requantization(number: Carried) -> None:
    step = number.requantization
    if step is None:
        return
    assert 2**30 <= step.multiplier < 2**31
    assert step.multiplier / 2 ** (31 + step.shift) == pytest.approx(step.factor, rel=2**-30)
    assert abs(step.product - number.accumulator * step.multiplier / 2 ** (31 + step.shift)) <= 1
    assert step.before_clamp - step.product - (step.residual_product or 0) in range(256), "the zero-point"
    if step.code != step.before_clamp:
        assert step.code in (0, 255) or step.before_clamp > step.code, "a clamp cuts off"


def test_terms_are_what_the_network_multiplies() -> None:
    """The window of a depthwise, dilated, padded convolution, found again by a one-hot weight."""
    subject = made("odd")
    flow = find_layer(subject.graph, subject.qparams, "a")
    (batch,) = [images(1, seed=5)]
    codes = quantize(batch, flow.x_grid)
    for number in carried(subject, "a", batch):
        _, channel, row, column = number.place
        for index, term in enumerate(number.terms):
            y, x = row + 2 * (index // 3) - 2, column + 2 * (index % 3) - 2
            inside = 0 <= y < 16 and 0 <= x < 16
            assert term.place == ((channel // 2, y, x) if inside else None)
            if inside:
                assert term.x_code == int(codes[0, channel // 2, y, x])
                assert term.x == float(batch[0, channel // 2, y, x])
            else:
                assert term.x_code == int(flow.x_grid.zero_point)


def test_numbers_are_chosen_for_what_happens_to_them() -> None:
    found = carried(made("tiny", bits=4), "conv1")
    by_reason = {number.why: number.requantization for number in found}
    cut = by_reason["cut off by the ReLU"]
    assert cut is not None
    assert cut.before_clamp < cut.code == 0
    largest, fits = by_reason["the largest"], by_reason.get("the highest that still fits the grid")
    assert largest is not None
    if fits is not None:
        assert largest.before_clamp > 15
        assert fits.before_clamp <= 15
    assert found == carried(made("tiny", bits=4), "conv1")


def test_what_comes_behind_is_what_a_slow_run_gives() -> None:
    subject = made("tiny", fusion=Fusion.none, bits=8, scheme=AFFINE)
    flow = find_layer(subject.graph, subject.qparams, "conv1")
    slow = SlowTwin(subject.graph, subject.qparams)
    slow.garbage_collect_values = False
    with torch.no_grad():
        slow.run(images(2, seed=5))
    env = {node.name: value for node, value in slow.env.items()}
    for number in carried(subject, "conv1"):
        norm, rounded, relu = number.after
        assert norm.real == pytest.approx(float(env["bn1"][number.place]), abs=1e-6)
        grid = flow.after[1].out.grid
        assert grid is not None
        assert rounded.code == int(quantize(env["bn1"], grid)[number.place])
        assert relu.real == pytest.approx(float(env["relu"][number.place]), abs=1e-6)
