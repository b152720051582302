"""What images become in whole layers, and the explanation that goes with it."""

from typing import Any

import pytest
import torch
from explained import CASES, SYMMETRIC, subject, subject_of
from small_networks import images, tiny
from torch import nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.errors import InputError
from quant_sweep.explain import Subject, explain
from quant_sweep.explain.dataflow import find_layer
from quant_sweep.explain.follow import Arithmetic, follow
from quant_sweep.explain.integer_layer import IntegerLayer, bits_needed
from quant_sweep.graph import Fusion


def followed(made: Subject, layer: str, batches: Any = None) -> Arithmetic:
    return follow(made, find_layer(made.graph, made.qparams, layer), [images(2)] if batches is None else batches)


def test_batches_are_shown_as_one() -> None:
    made = subject_of("tiny", bits=4)
    batch = images(4, seed=3)
    whole, parts = (followed(made, "conv2", batches) for batches in ([batch], batch.split(2)))
    assert whole.images == parts.images == 4
    assert [(s.step, s.codes, s.needed) for s in whole.steps] == [(s.step, s.codes, s.needed) for s in parts.steps]
    assert whole.registers == parts.registers
    assert whole.agreements[0].compared == parts.agreements[0].compared


def test_the_accumulator_that_was_seen() -> None:
    made, batch = subject_of("tiny"), images(3, seed=4)
    found = followed(made, "conv1", [batch])
    flow = find_layer(made.graph, made.qparams, "conv1")
    accumulator = IntegerLayer.of(made.graph, flow).run(quantize(batch, flow.x_grid), None).accumulator
    register = found.registers[1]
    assert register.seen == (int(accumulator.min()), int(accumulator.max()))
    assert register.bits_seen == bits_needed(*register.seen) <= register.bits_worst < 32
    (line,) = [step for step in found.steps if step.step == "accumulator"]
    assert line.needed == register.bits_seen


def test_16_bits_need_more_than_32() -> None:
    assert followed(subject_of("tiny", bits=16), "conv1").registers[0].bits_worst > 32


@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize("layer", ["conv1", "conv2", "linear"])
def test_every_step_is_there(fusion: Fusion, layer: str) -> None:
    steps = [step.step for step in followed(subject_of("tiny", fusion=fusion), layer).steps]
    assert steps[:2] == ["input", "input codes"]
    assert steps.index("sum of products") < steps.index("accumulator")
    assert ("bias code" in steps) == (layer == "linear" or fusion is not Fusion.none)
    on_codes = layer != "linear" and fusion is not Fusion.none
    assert ("output codes" in steps) == on_codes
    assert ("on one scale" in steps) != on_codes
    assert ("residual codes" in steps) == (layer == "conv2" and fusion is Fusion.conv_bn_relu)
    if layer == "conv1" and fusion is Fusion.none:
        assert steps[-3:] == ["BatchNorm (bn1)", "put on the next grid", "ReLU (relu)"]


def test_shapes_and_types() -> None:
    found = followed(subject_of("tiny", bits=4), "conv1")
    by_name = {step.step: step for step in found.steps}
    assert by_name["input codes"].shape == (3, 16, 16)
    assert by_name["weight codes"].shape == (6, 3, 3, 3)
    assert by_name["accumulator"].shape == (6, 16, 16)
    assert (by_name["output codes"].dtype, by_name["output codes"].bits) == ("uint8", 4)
    assert (by_name["weight codes"].dtype, by_name["accumulator"].dtype) == ("int8", "int32")
    assert by_name["weight codes"].codes is not None
    assert -7 <= by_name["weight codes"].codes.lowest <= by_name["weight codes"].codes.highest <= 7
    assert found.terms == 27


@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_real_values_follow_from_codes(kind: str, layer: str, fusion: Fusion) -> None:
    """Every line that has codes, a scale and real values says the same by all three."""
    for step in followed(subject_of(kind, fusion=fusion, bits=4), layer).steps:
        if step.codes is None or step.real is None or step.scale is None or step.scale.lowest != step.scale.highest:
            continue
        zero_point = step.zero_point or 0
        for code, real in ((step.codes.lowest, step.real.lowest), (step.codes.highest, step.real.highest)):
            assert step.scale.lowest * (code - zero_point) == pytest.approx(real, rel=1e-5), step.step


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("layer", ["conv1", "conv2", "linear"])
def test_few_bits_and_signed_codes(layer: str, bits: int) -> None:
    found = followed(subject_of("tiny", bits=bits, scheme=SYMMETRIC), layer)
    assert found.numbers
    assert (found.steps[1].dtype, found.steps[2].step, found.steps[2].dtype) == ("int8", "stored input", "uint8")


def test_a_channel_of_zeros() -> None:
    model = tiny()
    nn.init.zeros_(model.get_submodule("bn1").weight[:1])  # its folded weights are all zero
    found = explain(subject(model), "conv1", [images(2)], {})
    assert found.channels.lo[0] == found.channels.hi[0] == 0.0
    assert found.arithmetic.agreements[0].largest <= 1


@pytest.mark.parametrize(("kind", "layer"), CASES)
def test_layers_of_every_shape(kind: str, layer: str) -> None:
    found = followed(subject_of(kind, bits=6), layer)
    assert found.numbers
    assert all(torch.tensor(step.shape).prod() > 0 for step in found.steps)


def test_no_images() -> None:
    with pytest.raises(InputError, match="images=0"):
        explain(subject_of("tiny"), "conv1", [], {})
