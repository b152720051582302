"""A network of several inputs: each has a grid of its own, and all that comes of them is what the model makes."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from configured import composed
from own_package import data as own_data
from own_package.nets import TwoInputs, two_inputs
from torch import Tensor, nn

from quant_sweep import MSE, Fusion, Int8, Simulate, calibrate, capture, packed, quantize, takes_packed
from quant_sweep.data import custom
from quant_sweep.errors import InputError
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.run import run_point

SHAPES = ((3, 16, 16), (5,))


def inputs(count: int = 32) -> tuple[Tensor, Tensor]:
    train, _ = own_data.pairs()
    pictures, known = zip(*(item[0] for item in train[:count]), strict=True)
    return torch.stack(pictures), torch.stack(known)


def test_it_computes_what_the_model_computes() -> None:
    model, given = two_inputs().eval(), inputs()
    network = takes_packed(model, SHAPES)
    with torch.no_grad():
        assert torch.equal(network(packed(given)), model(*given))
    assert type(model) is TwoInputs
    assert network.conv.weight is model.conv.weight


def test_each_input_has_a_grid_of_its_own() -> None:
    network, batch = takes_packed(two_inputs().eval(), SHAPES), packed(inputs())
    graph = capture(network, batch, Fusion.conv_bn_relu)
    assert {"input.output", "input_1.output", "conv.weight", "known.weight", "head.weight"} <= set(graph.names)
    calibration = calibrate(graph, [batch])
    made = {engine: quantize(calibration, bits=7, observer=MSE(), engine=engine()) for engine in (Simulate, Int8)}
    scales = [made[Simulate].qparams[name].scale.item() for name in ("input.output", "input_1.output")]
    assert scales[1] > 20 * scales[0], "the second is a hundred times as large"
    with torch.no_grad():
        outputs = [quantized.network(batch) for quantized in made.values()]
        expected = network(batch)
    for output in outputs:
        assert ((output - expected).norm() / expected.norm()) < 0.04
    torch.testing.assert_close(*outputs, rtol=0.05, atol=0.2)


@pytest.mark.parametrize("shapes", [SHAPES[:1], (*SHAPES, (1,), (1,))])
def test_another_number_of_inputs(shapes: tuple[tuple[int, ...], ...]) -> None:
    with pytest.raises(
        InputError, match=r"model=TwoInputs: takes 2 inputs \(picture, known\), and each item of the data"
    ):
        takes_packed(two_inputs(), shapes)


def load(splits: object, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> object:
    monkeypatch.setattr("quant_sweep.data.from_factory.imported", lambda *_: lambda: splits)
    more = {"kwargs": None, "version": None, "mean": None, "std": None}
    return custom(name="own", factory="own:data", cache_dir=str(tmp_path), **more)


def test_data_of_tuples(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given = inputs()
    labels = torch.arange(32) % 3
    items = [((a, b), int(y)) for a, b, y in zip(*given, labels, strict=True)]
    for split in (items, (given, labels)):
        data = load((split, split), monkeypatch, tmp_path)
        assert data.test.parts == SHAPES
        assert torch.equal(data.train.images, packed(given))
        assert torch.equal(data.train.labels, labels)
    for split, words in (
        ([*items, ((given[0][0],), 1)], "item 32 has inputs of"),
        ([((given[0][0], torch.arange(5)), 1)], "several inputs, not all of them floats"),
        ((given, labels[:5]), "inputs and labels have 5, 32 rows"),
    ):
        with pytest.raises(InputError, match=words):
            load((split, split), monkeypatch, tmp_path)


def test_from_a_config_to_a_run(tmp_path: Path) -> None:
    cfg = composed(
        *("model=custom", "model.factory=own_package.nets:two_inputs", "device=cpu", "bits=6", "recovery=reconstruct"),
        *("data=custom", "data.factory=own_package.data:pairs", "calibration.images=64", "calibration.batch_size=32"),
        *(f"outputs_dir={tmp_path}", f"tracking.uri=sqlite:///{tmp_path}/mlflow.db", f"tracking.lock_dir={tmp_path}/l"),
        *(f"tracking.artifacts={tmp_path}/artifacts", "tracking.experiment=two"),
    )
    run_point(cfg, sweep=None)
    (row,) = open_tracker(cfg).runs().query("kind == 'point'").to_dict("records")
    assert row["tags.metric_name"] == "agreement"
    assert row["metrics.agreement"] > 60
    assert row["metrics.scale/input_1.output"] > 20 * row["metrics.scale/input.output"]


def test_a_model_of_any_number_of_inputs() -> None:
    class Sums(nn.Module):
        def forward(self, *parts: Tensor) -> Tensor:
            return torch.stack([part.flatten(1).sum(dim=1) for part in parts], dim=1)

    given = inputs()
    assert torch.equal(takes_packed(Sums(), SHAPES)(packed(given)), Sums()(*given))
