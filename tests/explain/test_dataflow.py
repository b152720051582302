"""What a layer's surroundings are said to be, in each fusion."""

import math

import pytest
import torch
from explained import subject, subject_of
from small_networks import shaken
from torch import Tensor, nn

from quant_sweep.engines.lowering import Compute, Lookup, Quantize, Sum
from quant_sweep.errors import InputError
from quant_sweep.explain.dataflow import check_layer, clamp_name, find_layer
from quant_sweep.graph import Fusion


def test_fused_layer_does_everything_itself() -> None:
    made = subject_of("tiny")
    flow = find_layer(made.graph, made.qparams, "conv2")
    assert flow.after == ()
    assert flow.folded
    assert flow.step.limits == (0.0, float("inf"))
    assert flow.step.residual is not None
    assert flow.quantizer(flow.step.residual) == "relu.output"
    assert flow.on_grid is flow.step.out
    assert flow.bias is not None, "BatchNorm left one"


def test_batch_norm_apart() -> None:
    made = subject_of("tiny", fusion=Fusion.none)
    flow = find_layer(made.graph, made.qparams, "conv1")
    assert [type(step) for step in flow.after] == [Compute, Quantize, Lookup]
    assert list(flow.labels.values()) == ["BatchNorm (bn1)", "put on the next grid", "ReLU (relu)"]
    assert flow.step.out.grid is None
    assert flow.on_grid is flow.after[1].out
    assert flow.quantizer(flow.after[1].out) == "bn1.output"
    assert not flow.folded


def test_rounded_before_and_after_the_activation() -> None:
    made = subject_of("tiny", fusion=Fusion.bn)
    assert [type(s) for s in find_layer(made.graph, made.qparams, "conv1").after] == [Lookup]
    assert [type(s) for s in find_layer(made.graph, made.qparams, "conv2").after] == [Sum]


def test_codes_that_were_only_moved_keep_their_name() -> None:
    made = subject_of("odd")
    flow = find_layer(made.graph, made.qparams, "e")
    assert flow.step.x.name not in flow.written
    assert flow.quantizer(flow.step.x) == "relu6_3.output"
    assert flow.on_grid is None, "nobody rounds the logits"


def test_unknown_layer_lists_the_layers() -> None:
    with pytest.raises(InputError, match=r"^layer=conv9: no .* there are conv1, conv2, linear$"):
        check_layer(subject_of("tiny").graph, "conv9")


def test_clamps_are_called_by_their_names() -> None:
    assert clamp_name(0.0, math.inf) == "ReLU"
    assert clamp_name(0.0, 6.0) == "ReLU6"
    assert clamp_name(-1.0, 1.0) == "clamp to [-1, 1]"


class Twice(nn.Module):
    """One layer, called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.conv(torch.relu(self.conv(x)))).mean((2, 3)))


def test_of_several_calls_the_first_is_shown() -> None:
    made = subject(shaken(Twice()))
    flow = find_layer(made.graph, made.qparams, "conv")
    assert flow.calls == 2
    assert flow.quantizer(flow.step.x) == "input"
