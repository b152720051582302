"""What a layer's surroundings are said to be, in each fusion."""

import pytest
from explained import odd, subject

from quant_sweep.engines.lowering import Compute, Lookup, Quantize, Sum
from quant_sweep.errors import InputError
from quant_sweep.explain.dataflow import check_layer, find_layer
from quant_sweep.graph import Fusion


def test_fused_layer_does_everything_itself() -> None:
    made = subject()
    flow = find_layer(made.graph, made.qparams, "conv2")
    assert flow.after == ()
    assert flow.folded
    assert flow.step.limits == (0.0, float("inf"))
    assert flow.step.residual is not None
    assert flow.point(flow.step.residual) == "relu.output"
    assert flow.written is flow.step.out
    assert flow.module.bias is not None, "BatchNorm left one"


def test_batch_norm_apart() -> None:
    made = subject(fusion=Fusion.none)
    flow = find_layer(made.graph, made.qparams, "conv1")
    assert [type(step) for step in flow.after] == [Compute, Quantize, Lookup]
    assert list(flow.labels.values()) == ["BatchNorm2d (bn1)", "put on the next grid", "ReLU (relu)"]
    assert flow.step.out.grid is None
    assert flow.written is flow.after[1].out
    assert flow.point(flow.after[1].out) == "bn1.output"
    assert not flow.folded


def test_rounded_before_and_after_the_activation() -> None:
    made = subject(fusion=Fusion.bn)
    assert [type(s) for s in find_layer(made.graph, made.qparams, "conv1").after] == [Lookup]
    assert [type(s) for s in find_layer(made.graph, made.qparams, "conv2").after] == [Sum]


def test_codes_that_were_only_moved_keep_their_name() -> None:
    made = subject(odd())
    flow = find_layer(made.graph, made.qparams, "e")
    assert flow.step.x.name not in flow.points
    assert flow.point(flow.step.x) == "relu6_3.output"
    assert flow.written is None, "nobody rounds the logits"


def test_unknown_layer_lists_the_layers() -> None:
    with pytest.raises(InputError, match=r"^layer=conv9: no .* there are conv1, conv2, linear$"):
        check_layer(subject().graph, "conv9")
