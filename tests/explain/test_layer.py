"""The explanation of whole layers."""

import pytest
import torch
from explained import SYMMETRIC, odd, subject
from small_networks import images, tiny
from torch import nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.errors import InputError
from quant_sweep.explain import explain
from quant_sweep.explain.dataflow import find_layer
from quant_sweep.explain.integer_layer import IntegerLayer, bits_needed
from quant_sweep.graph import Fusion


def test_batches_are_told_as_one() -> None:
    made = subject(bits=4)
    batch = images(4, seed=3)
    whole, parts = (explain(made, "conv2", batches, {}) for batches in ([batch], batch.split(2)))
    assert whole.images == parts.images == 4
    assert [(s.step, s.codes, s.needed) for s in whole.steps] == [(s.step, s.codes, s.needed) for s in parts.steps]
    assert whole.registers == parts.registers
    assert whole.agreements[0].compared == parts.agreements[0].compared


def test_the_accumulator_that_was_seen() -> None:
    made, batch = subject(), images(3, seed=4)
    found = explain(made, "conv1", [batch], {})
    flow = find_layer(made.graph, made.qparams, "conv1")
    accumulator = IntegerLayer.of(flow).accumulate(quantize(batch, flow.x_grid))
    register = found.registers[1]
    assert register.seen == (int(accumulator.min()), int(accumulator.max()))
    assert register.bits_seen == bits_needed(*register.seen) <= register.bits_worst < 32
    (line,) = [step for step in found.steps if step.step == "accumulator"]
    assert line.needed == register.bits_seen


def test_16_bits_need_more_than_32() -> None:
    found = explain(subject(bits=16), "conv1", [images(2)], {})
    assert found.registers[0].bits_worst > 32


@pytest.mark.parametrize("fusion", list(Fusion))
@pytest.mark.parametrize("layer", ["conv1", "conv2", "linear"])
def test_every_step_is_there(fusion: Fusion, layer: str) -> None:
    steps = [step.step for step in explain(subject(fusion=fusion), layer, [images(2)], {}).steps]
    assert steps[:2] == ["input", "input codes"]
    assert steps.index("sum of products") < steps.index("accumulator")
    assert ("bias code" in steps) == (layer == "linear" or fusion is not Fusion.none)
    on_codes = layer != "linear" and fusion is not Fusion.none
    assert ("output codes" in steps) == on_codes
    assert ("residual codes" in steps) == (layer == "conv2" and fusion is Fusion.conv_bn_relu)
    if layer == "conv1" and fusion is Fusion.none:
        assert steps[-3:] == ["BatchNorm2d (bn1)", "put on the next grid", "ReLU (relu)"]


def test_shapes_and_types() -> None:
    found = explain(subject(bits=4), "conv1", [images(2)], {})
    by_name = {step.step: step for step in found.steps}
    assert by_name["input codes"].shape == (3, 16, 16)
    assert by_name["weight codes"].shape == (6, 3, 3, 3)
    assert by_name["accumulator"].shape == (6, 16, 16)
    assert (by_name["output codes"].dtype, by_name["output codes"].bits) == ("uint8", 4)
    assert (by_name["weight codes"].dtype, by_name["accumulator"].dtype) == ("int8", "int32")
    assert by_name["weight codes"].codes is not None
    assert -7 <= by_name["weight codes"].codes.lowest <= by_name["weight codes"].codes.highest <= 7
    assert found.terms == 27


@pytest.mark.parametrize("bits", [2, 3])
@pytest.mark.parametrize("layer", ["conv1", "conv2", "linear"])
def test_few_bits_and_signed_codes(layer: str, bits: int) -> None:
    found = explain(subject(bits=bits, scheme=SYMMETRIC), layer, [images(2)], {})
    assert found.numbers
    assert found.steps[1].dtype == "int8"


def test_a_channel_of_zeros() -> None:
    model = tiny()
    nn.init.zeros_(model.bn1.weight[:1])  # its folded weights are all zero
    found = explain(subject(model), "conv1", [images(2)], {})
    assert found.channels.lo[0] == found.channels.hi[0] == 0.0
    assert found.agreements[0].largest <= 1


@pytest.mark.parametrize("layer", list("abcde"))
def test_layers_of_every_shape(layer: str) -> None:
    found = explain(subject(odd(), bits=6), layer, [images(2)], {})
    assert found.numbers
    assert all(torch.tensor(step.shape).prod() > 0 for step in found.steps)


def test_no_images() -> None:
    with pytest.raises(InputError, match="images=0"):
        explain(subject(), "conv1", [], {})
