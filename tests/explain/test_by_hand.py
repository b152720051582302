"""The numbers carried by hand are the network's own, however the layer is shaped."""

from typing import Any

import pytest
import torch
from exact_kernels import needs_int8
from explained import CASES, SYMMETRIC, subject, subject_of
from small_networks import images, tiny
from torch import Tensor

from quant_sweep.arithmetic.affine import dequantize, fake_quantize, quantize
from quant_sweep.engines import Int8, Integer
from quant_sweep.explain import Subject
from quant_sweep.explain.by_hand import Example, Requantization, examples_of
from quant_sweep.explain.dataflow import find_layer, tensor_of
from quant_sweep.explain.follow import Arithmetic, follow
from quant_sweep.explain.integer_layer import IntegerLayer
from quant_sweep.explain.recording import Recording, record
from quant_sweep.graph import Fusion

INT32 = range(-(2**31), 2**31)


def followed(made: Subject, layer: str) -> Arithmetic:
    return follow(made, find_layer(made.graph, made.qparams, layer), [images(2, seed=5)])


def recorded(made: Subject, layer: str, batch: Tensor | None = None) -> tuple[IntegerLayer, Recording]:
    flow = find_layer(made.graph, made.qparams, layer)
    return IntegerLayer.of(made.graph, flow), record(made, images(2, seed=5) if batch is None else batch, flow)


def carried(made: Subject, layer: str, batch: Tensor | None = None) -> tuple[Example, ...]:
    integer, recording = recorded(made, layer, batch)
    return examples_of(integer, integer.run(*recording.codes_read()), recording)


def tensors(made: Subject, batch: Tensor) -> dict[str, Tensor]:
    """What the simulation computes before it rounds, one operation after the other, in the slow obvious way."""
    values: dict[str, Any] = {"input": batch, **made.graph.graph.constants}
    for quantizer in made.graph.weights:
        values[quantizer.name] = fake_quantize(values[quantizer.name], made.qparams[quantizer.name])
    readers = {(q.name, reader): made.qparams[q.name] for q in made.graph.activations for reader in q.readers}
    for node in made.graph.graph.nodes:
        grids = [(values[name], readers.get((name, node.name))) for name in node.inputs]
        values[node.name] = node.operation(*(x if grid is None else fake_quantize(x, grid) for x, grid in grids))
    return values


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_hand_and_simulation_agree(kind: str, layer: str, fusion: Fusion, bits: int) -> None:
    made = subject_of(kind, fusion=fusion, bits=bits)
    found = carried(made, layer)
    flow = find_layer(made.graph, made.qparams, layer)
    simulated = tensors(made, images(2, seed=5))[tensor_of(flow.step.out)]
    assert found
    for number in found:
        assert number.simulated == pytest.approx(float(simulated[number.place]), rel=1e-5, abs=1e-5)
        if flow.step.out.grid is None:
            assert number.real == pytest.approx(number.simulated, rel=1e-5, abs=1e-5)
        else:
            assert number.requantization is not None
            assert number.requantization.code is not None
            assert number.simulated_code is not None
            assert abs(number.requantization.code - number.simulated_code) <= 1


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("bits", [8, 4, 2])
@pytest.mark.parametrize("kind", ["tiny", "odd", "upwards"])
def test_every_number_is_that_of_the_engine(kind: str, bits: int, scheme: str) -> None:
    """Engine `integer`, all codes and all logits, exactly."""
    more: dict[str, Any] = {"scheme": SYMMETRIC} if scheme == "symmetric" else {}
    made, batch = subject_of(kind, bits=bits, engine=Integer(), **more), images(3, seed=5)
    logits = made.network(batch)
    for layer in (layer for network, layer in CASES if network == kind):
        integer, recording = recorded(made, layer, batch)
        step, stages = integer.dataflow.step, integer.run(*recording.codes_read())
        numbers = examples_of(integer, stages, recording)
        if step.out.grid is None:
            assert torch.equal(stages.real.float(), logits)
        else:
            written = recording.engine_codes(step.out)
            assert written is not None
            assert torch.equal(stages.codes, written)
            assert torch.equal(stages.real.float(), dequantize(written, step.out.grid))
            for number in numbers:
                assert number.requantization is not None
                assert number.requantization.code == number.engine_code == int(written[number.place])


def half_up(x: int, divisor: int) -> int:
    """x / divisor to the nearest, ties up."""
    return (2 * x + divisor) // (2 * divisor)


def half_away(x: int, divisor: int) -> int:
    """x / divisor to the nearest, ties away from zero."""
    return (1 if x >= 0 else -1) * ((2 * abs(x) + divisor) // (2 * divisor))


@pytest.mark.parametrize("scheme", ["affine", "symmetric"])
@pytest.mark.parametrize("bits", [8, 3])
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_a_pocket_calculator_finds_the_same(kind: str, layer: str, bits: int, scheme: str) -> None:
    """Every line follows from those above it, in whole numbers of any size."""
    more: dict[str, Any] = {"scheme": SYMMETRIC} if scheme == "symmetric" else {}
    made = subject_of(kind, bits=bits, **more)
    flow = find_layer(made.graph, made.qparams, layer)
    x_grid, weight = flow.x_grid, flow.weight
    for number in carried(made, layer):
        channel = number.place[flow.channel_axis]
        assert len(number.terms) == weight[0].numel()
        assert number.sum == sum(term.x_code * term.weight_code for term in number.terms)
        assert number.shifted == moved(number.sum, number.shift)
        zero = int(x_grid.zero_point) - x_grid.spec.qmin
        assert number.correction == moved(zero * sum(term.weight_code for term in number.terms), number.shift)
        scale = float(x_grid.scale) * float(flow.weight_grid.scale.expand(len(weight))[channel])
        assert number.bias_code == round(number.bias * 2**number.shift / scale)
        assert number.accumulator == number.shifted - number.correction + number.bias_code
        assert number.accumulator in INT32
        step = number.requantization
        assert step is not None
        assert 2**30 <= step.multiplier < 2**31
        assert step.multiplier / 2 ** (31 + step.shift) == pytest.approx(step.factor, rel=2**-30)
        left, right = 2 ** max(-step.shift, 0), 2 ** max(step.shift, 0)
        assert step.product == half_away(half_up(number.accumulator * left * step.multiplier, 2**31), right)
        if flow.step.out.grid is not None:
            _check_code(number, step, flow.step.out.grid, 0 if scheme == "affine" else -(2 ** (bits - 1)))


def moved(x: int, places: int) -> int:
    return x * 2**places if places >= 0 else half_away(x, 2**-places)


def _check_code(number: Example, step: Requantization, grid: Any, lowest: int) -> None:
    expected = step.product
    if step.residual_product is not None:
        expected = half_away(step.product + step.residual_product, 2**12)
    assert step.steps == expected
    assert step.before_clamp == step.steps + int(grid.zero_point)
    assert step.code is not None
    assert number.real == pytest.approx(float(grid.scale) * (step.code - int(grid.zero_point)))
    if step.code != step.before_clamp:
        assert step.code in (lowest, grid.spec.qmax, int(grid.zero_point)) or step.before_clamp > step.code


@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_all_codes_are_near_those_of_the_simulation(layer: str) -> None:
    (agreement,) = followed(subject_of("tiny"), layer).agreements
    assert (agreement.other, agreement.compared) == ("simulate", 2 * 6 * 16 * 16)
    assert agreement.largest <= 1
    assert agreement.differing < agreement.compared / 100


def test_a_bias_of_more_than_32_bits_has_a_coarser_unit() -> None:
    integer, _ = recorded(subject_of("upwards"), "f")
    assert int(integer.shifts[0]) < 0, "channel 0 is switched off, its scale tiny"
    assert int(integer.shifts[1:].min()) >= 0
    assert integer.accumulate is not None
    assert int(integer.accumulate.bias.abs().max()) < 2**30


def test_scheme_of_the_original_study() -> None:
    found = followed(subject(bits=4, scheme=SYMMETRIC), "conv2")
    assert found.stored == "u_x", "codes begin below 0"
    assert [step.step for step in found.steps][2] == "stored input"
    assert found.agreements[0].largest <= 1


@pytest.mark.parametrize(
    ("engine", "differing"),
    [pytest.param(Int8(), 0.01, marks=needs_int8, id="int8"), pytest.param(Integer(), 0.0, id="integer")],
)
@pytest.mark.parametrize("layer", ["conv1", "conv2"])
def test_engine_with_codes_of_its_own(engine: Any, differing: float, layer: str) -> None:
    """Deep in the network the inputs are the engine's, so its output codes follow from them."""
    found = followed(subject(bits=4, engine=engine), layer)
    assert [agreement.other for agreement in found.agreements] == ["simulate", type(engine).__name__.lower()]
    assert all(agreement.largest <= 1 for agreement in found.agreements)
    own = found.agreements[1]
    assert own.differing <= differing * own.compared
    assert all(number.engine_code is not None for number in found.numbers)


@pytest.mark.parametrize("fusion", list(Fusion))
def test_float_results_are_the_models_own(fusion: Fusion) -> None:
    """Held against the model that nobody captured or folded, through hooks."""
    model = tiny()
    seen: dict[str, Tensor] = {}
    for name in ("relu", "linear", "conv1"):
        module = model.get_submodule(name)
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.clone()))
    with torch.no_grad():
        model(images(2, seed=5))
    made = subject(fusion=fusion)
    for number in carried(made, "linear"):
        assert number.original == pytest.approx(float(seen["linear"][number.place]), abs=1e-5)
    for number in carried(made, "conv1"):
        final = number.original if fusion is Fusion.conv_bn_relu else number.after[-1].original
        assert final == pytest.approx(float(seen["relu"][number.place]), abs=1e-5)
        if fusion is Fusion.none:
            assert number.original == pytest.approx(float(seen["conv1"][number.place]), abs=1e-5)


def test_terms_are_what_the_network_multiplies() -> None:
    """The window of a depthwise, dilated, padded convolution, from its indices."""
    made = subject_of("odd")
    flow = find_layer(made.graph, made.qparams, "a")
    (batch,) = [images(1, seed=5)]
    codes = quantize(batch, flow.x_grid)
    for number in carried(made, "a", batch):
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


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_the_terms_make_the_sum_in_float_too(kind: str, layer: str) -> None:
    made = subject_of(kind)
    integer, recording = recorded(made, layer)
    step = integer.dataflow.step
    assert step.x.grid is not None
    x = dequantize(recording.codes(step.x), step.x.grid)
    weight = fake_quantize(integer.dataflow.weight, integer.dataflow.weight_grid)
    sums = step.operation(x, weight)
    for number in carried(made, layer):
        products = sum(
            (float(x[number.place[0]][term.place]) if term.place else 0.0)
            * term.weight_code
            * float(integer.scale[number.place[integer.dataflow.channel_axis]] / step.x.grid.scale)
            for term in number.terms
        )
        assert products == pytest.approx(float(sums[number.place]), rel=1e-4, abs=1e-5)


def test_numbers_are_chosen_for_what_happens_to_them() -> None:
    found = carried(subject_of("tiny", bits=4), "conv1")
    by_reason = {number.why: number.requantization for number in found}
    cut = by_reason["cut off by the ReLU"]
    assert cut is not None
    assert cut.before_clamp is not None
    assert cut.before_clamp < 0 == cut.code
    largest, fits = by_reason["the largest"], by_reason.get("the highest that still fits the grid")
    assert largest is not None
    if fits is not None:
        assert largest.before_clamp is not None
        assert fits.before_clamp is not None
        assert largest.before_clamp > 15 >= fits.before_clamp
    assert found == carried(subject(bits=4), "conv1")


def test_what_comes_behind_is_what_a_slow_run_gives() -> None:
    made = subject(fusion=Fusion.none)
    flow = find_layer(made.graph, made.qparams, "conv1")
    slow = tensors(made, images(2, seed=5))
    for number in carried(made, "conv1"):
        norm, rounded, relu = number.after
        assert norm.real == pytest.approx(float(slow["bn1.output"][number.place]), abs=1e-6)
        grid = flow.after[1].out.grid
        assert grid is not None
        assert rounded.code == int(quantize(slow["bn1.output"], grid)[number.place])
        assert relu.real == pytest.approx(float(slow["relu.output"][number.place]), abs=1e-6)


@pytest.mark.parametrize("layer", ["conv1", "conv2", "linear"])
def test_16_bits_are_left_to_the_simulation(layer: str) -> None:
    made = subject_of("tiny", bits=16)
    found = followed(made, layer)
    assert "16 bits, allowed are 2 to 8" in found.refusal
    assert found.agreements == ()
    for number in found.numbers:
        assert number.requantization is None
        assert number.sum == sum(term.product for term in number.terms)
        assert number.accumulator == number.sum - number.correction
        floor = 0.0 if layer != "linear" else number.real  # the ReLU comes after
        assert max(number.real, floor) == pytest.approx(number.simulated, rel=1e-4, abs=1e-3)
