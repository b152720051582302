"""One run from its config: what it records is what the library gives, once, and only when it is finished."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from configured import RESNET8, composed
from omegaconf import DictConfig
from small_networks import shaken
from torch import nn

from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.data import digits, draw_calibration_images
from quant_sweep.evaluation.evaluate import evaluate
from quant_sweep.graph import Fusion, capture
from quant_sweep.models import write_checkpoint
from quant_sweep.models.cifar_resnet import CifarResNet
from quant_sweep.observers import FakeHist, MinMax
from quant_sweep.quantization.quantize import quantize
from quant_sweep.sweep import float_model, quantize_model, record, run
from quant_sweep.sweep.build import load_data, load_model, open_tracker, plain
from quant_sweep.sweep.run import run_point

Config = Callable[..., DictConfig]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("run")
    torch.manual_seed(0)
    model = shaken(CifarResNet(1, num_classes=10, in_channels=1))
    write_checkpoint(place / "weights.safetensors", model.state_dict(), {})
    return place


@pytest.fixture
def config(folder: Path, request: pytest.FixtureRequest) -> Config:
    """A config of this test's own experiment."""

    def make(*overrides: str) -> DictConfig:
        return composed(
            *(() if "model=custom" in overrides else RESNET8),
            f"outputs_dir={folder}",
            f"model.checkpoint={folder}/weights.safetensors",
            f"tracking.uri=sqlite:///{folder}/mlflow.db",
            f"tracking.artifacts={folder}/artifacts",
            f"tracking.lock_dir={folder}/locks",
            f"tracking.experiment={request.node.originalname}",
            *("calibration.images=64", "calibration.batch_size=32", "device=cpu"),
            *overrides,
        )

    return make


def finished(cfg: DictConfig, kind: str = "point") -> pd.DataFrame:
    runs = open_tracker(cfg).runs()
    return runs[(runs["kind"] == kind) & (runs["status"] == "finished")].reset_index(drop=True)


def test_records_what_the_library_gives(config: Config, folder: Path) -> None:
    cfg = config("observer=fake_hist", "bits=5", "overrides={input: 8}")
    run_point(cfg, sweep=None)
    (row,) = finished(cfg).to_dict("records")

    data = digits(name="digits", size=8, mean=[0.3053], std=[0.3758], cache_dir=str(folder), test_fraction=0.25, seed=0)
    model = load_model(plain(cfg.model), data).module
    batches = list(draw_calibration_images(data, 64, 32, seed=0).batches(torch.device("cpu")))
    calibration = calibrate(capture(model, batches[0], Fusion.conv_bn_relu), batches)
    quantized = quantize(calibration, bits=5, observer=FakeHist(), overrides={"input": 8})
    evaluation, original = (evaluate(network, data, data.test, 128) for network in (quantized.network, model))
    assert row["metrics.accuracy"] == evaluation.accuracy
    assert row["metrics.float_accuracy"] == original.accuracy
    assert row["metrics.agreement"] == evaluation.agreement(original)
    for name, grid in quantized.qparams.items():
        if grid.scale.dim() == 0:
            assert row[f"metrics.scale/{name}"] == grid.scale.item()
            assert row[f"metrics.zero_point/{name}"] == grid.zero_point.item()
    path = open_tracker(cfg).load_artifact(row["run_id"], "predictions.csv")
    table = pd.read_csv(path)
    assert table["prediction"].tolist() == evaluation.predictions.tolist()
    assert table["float_prediction"].tolist() == original.predictions.tolist()
    assert table["label"].tolist() == data.test.labels.tolist()


def test_one_pass_and_one_float_evaluation_serve_all_points(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    calls: list[str] = []
    for module, name in ((quantize_model, "calibrate"), (run, "evaluate"), (float_model, "keep_outputs")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, f=original, n=name: calls.append(n) or f(*a))
    cache = f"cache_dir={tmp_path}"
    for overrides in (["bits=8"], ["bits=4"], ["observer=minmax"], ["bits=8"], ["weight_bits=3", "batch_size=64"]):
        run_point(config(cache, *overrides), sweep=None)
    assert calls.count("calibrate") == 1
    assert calls.count("keep_outputs") == 1
    assert calls.count("evaluate") == 4, "each point but the repeated one"
    assert len(finished(config())) == 4
    assert len(finished(config(), "float")) == 1
    for kept in (quantize_model._calibration, float_model._float_model):
        kept.cache_clear()  # as in another process
    run_point(config(cache, "bits=3"), sweep=None)
    assert (calls.count("calibrate"), calls.count("keep_outputs")) == (1, 1)
    run_point(config(cache, "fusion=none"), sweep=None)
    run_point(config(cache, "calibration.images=65"), sweep=None)
    run_point(config(cache, "calibration.batch_size=16"), sweep=None)
    run_point(config(cache, "calibration.augment=true"), sweep=None)
    assert calls.count("calibrate") == 5


def test_a_crash_leaves_no_finished_run(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(record, "qparams_table", lambda *_: (_ for _ in ()).throw(RuntimeError("disk full")))
        with pytest.raises(RuntimeError, match="disk full"):
            run_point(config(), sweep=None)
    assert finished(config()).empty
    run_point(config(), sweep=None)
    runs = open_tracker(config()).runs()
    assert runs.loc[runs["kind"] == "point", "status"].tolist() == ["failed", "finished"]


def test_nan_logits_fail_the_run(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    original = run.quantize_model

    def breaks(*arguments):
        made = original(*arguments)
        made.network.register_forward_hook(lambda _module, _inputs, logits: logits * torch.nan)
        return made

    monkeypatch.setattr(run, "quantize_model", breaks)
    with pytest.raises(FloatingPointError, match="NaN"):
        run_point(config(), sweep=None)
    assert finished(config()).empty


@pytest.mark.parametrize(
    "overrides",
    [
        ["calibration=sequential", "calibration.update_batch_norm=true", "fusion=none", "scheme=symmetric"],
        ["calibration=sequential", "observer=moving_average"],
        ["engine=builtin", "observer=hist"],
        ["experiment=original", "row=hist_as_coded_4", "data=digits"],
        ["fusion=bn", "observer=entropy", "weight_observer=mse", "weight_bits=3"],
    ],
    ids=lambda overrides: overrides[0],
)
def test_every_way_is_recorded(config: Config, overrides: list[str]) -> None:
    cfg = config(*overrides)
    run_point(cfg, sweep=None)
    row = finished(cfg).iloc[-1]
    assert row["metrics.agreement"] > 0
    assert row["metrics.scale/input"] > 0
    table = pd.read_csv(open_tracker(cfg).load_artifact(row["run_id"], "qparams.csv"))
    assert table["scale"].gt(0).all()
    if "engine=builtin" not in overrides:
        assert {"input", "conv1.weight", "linear.weight"} <= set(table["name"])
        assert table["sqnr_db"].notna().all()


def test_sweep_is_the_parent(config: Config) -> None:
    run_point(config("bits=8"), sweep="sweep-1")
    run_point(config("bits=4"), sweep="sweep-1")
    runs = open_tracker(config()).runs()
    (parent,) = runs.loc[runs["kind"] == "sweep", "run_id"]
    assert runs.loc[runs["kind"] == "point", "parent"].tolist() == [parent, parent]


OWN = {
    (6, 32): nn.Sequential(nn.Conv1d(6, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(8, 3)),
    (10,): nn.Sequential(nn.Linear(10, 8), nn.GELU(), nn.Linear(8, 3)),
    (1, 12, 5): nn.Sequential(nn.Conv2d(1, 8, (5, 3)), nn.ReLU(), nn.Flatten(), nn.Linear(192, 3)),
}


def own_network(shape: list[int]) -> nn.Module:
    return OWN[tuple(shape)]


@pytest.mark.parametrize("shape", OWN)
def test_inputs_of_any_shape(config: Config, shape: tuple[int, ...], tmp_path: Path, monkeypatch) -> None:
    """From two files to a point, as the library computes it."""
    inputs = torch.randn(80, *shape, generator=torch.Generator().manual_seed(0))
    np.savez(tmp_path / "own.npz", inputs=inputs.numpy(), labels=(torch.arange(80) % 3).numpy())
    monkeypatch.setattr("quant_sweep.models.custom.imported", lambda *_: own_network)
    cfg = config(
        *("data=arrays", f"data.train={tmp_path}/own.npz", f"data.test={tmp_path}/own.npz", "bits=4"),
        *("model=custom", "model.factory=a:b", f"model.kwargs={{shape: {list(shape)}}}", "observer=minmax"),
        *("model.checkpoint=null", f"tracking.experiment=shape{len(shape)}"),
    )
    run_point(cfg, sweep=None)
    (row,) = finished(cfg).to_dict("records")
    data = load_data(plain(cfg.data))
    batches = list(draw_calibration_images(data, 64, 32, seed=0).batches(torch.device("cpu")))
    calibration = calibrate(capture(OWN[shape], batches[0], Fusion.conv_bn_relu), batches)
    quantized = quantize(calibration, bits=4, observer=MinMax())
    assert row["metrics.accuracy"] == evaluate(quantized.network, data, data.test, 7).accuracy
    assert row["metrics.agreement"] == evaluate(quantized.network, data, data.test, 80).agreement(
        evaluate(OWN[shape], data, data.test, 11)
    )
