"""Networks that are no classifiers of pictures: from one config to a table, and the same from the library."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from configured import composed
from omegaconf import DictConfig
from own_package.metrics import box_error

from quant_sweep import MSE, Fusion, MeanIoU, Metric, SquaredError, Top1, calibrate, capture, evaluate, quantize
from quant_sweep.data import draw_calibration_images
from quant_sweep.errors import InputError
from quant_sweep.evaluation.metrics import Custom
from quant_sweep.report import build_report
from quant_sweep.sweep.build import load_data, load_model, open_tracker, plain
from quant_sweep.sweep.run import run_point

NETWORKS: dict[str, tuple[str, str, Metric, str]] = {  # network -> data, metric, the same in the library, its label
    "ds_cnn": ("spectrograms", "auto", Top1(), "Accuracy"),
    "sensor_net": ("sensors", "auto", Top1(), "Accuracy"),
    "autoencoder": ("sounds", "mse", SquaredError(), "MSE"),
    "unet": ("scenes", "auto", MeanIoU(), "Mean IoU"),
    "detector": ("boxes", "custom", Custom(function=box_error), "Box error"),
}


def config(folder: Path, network: str, *overrides: str) -> DictConfig:
    data, metric, _, _ = NETWORKS[network]
    own = ["metric.factory=own_package.metrics:box_error"] if metric == "custom" else []
    return composed(
        *("model=custom", f"model.factory=own_package.nets:{network}", "device=cpu", f"metric={metric}", *own),
        *("data=custom", f"data.factory=own_package.data:{data}", "calibration.images=64", "calibration.batch_size=32"),
        *(f"outputs_dir={folder}", f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.lock_dir={folder}/locks"),
        *(f"tracking.artifacts={folder}/artifacts", f"tracking.experiment={network}", *overrides),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("own")


@pytest.mark.parametrize("network", NETWORKS)
def test_from_one_config_to_a_table_as_from_the_library(network: str, folder: Path) -> None:
    cfg = config(folder, network)
    run_point(cfg, sweep=None)
    runs = open_tracker(cfg).runs()
    (row,) = runs[runs["kind"] == "point"].to_dict("records")
    assert row["status"] == "finished"
    data, model = load_data(plain(cfg.data)), load_model(plain(cfg.model), load_data(plain(cfg.data))).module
    batches = list(draw_calibration_images(data, 64, 32, seed=0).batches(torch.device("cpu")))
    graph = capture(model, batches[0], Fusion.conv_bn_relu)
    quantized = quantize(calibrate(graph, batches), bits=8, observer=MSE())
    _, _, metric, label = NETWORKS[network]
    here = evaluate(quantized.network, data, data.test, 16, metric=metric, original=model)
    there = evaluate(model, data, data.test, 16, metric=metric)
    name = metric.name
    assert row[f"metrics.{name}"] == pytest.approx(here.value, rel=1e-5)
    assert row[f"metrics.float_{name}"] == pytest.approx(there.value, rel=1e-5)
    assert row["metrics.drop"] == pytest.approx(here.drop(there)[0], rel=1e-3, abs=1e-6)
    assert row["metrics.logit_sqnr"] == pytest.approx(here.logit_sqnr, rel=1e-4)
    assert ("metrics.agreement" in row) == metric.reads_classes
    text = build_report(runs, folder / network).text
    assert f"## {label} by bits and observer" in text
    assert metric.name == "accuracy" or f"Short result: {network}" not in text
    assert "| 8" in text


@pytest.mark.parametrize("network", ["autoencoder", "unet", "detector"])
def test_engines_compute_the_same_or_say_why_not(network: str, folder: Path) -> None:
    for engine in ("simulate", "int8", "integer"):
        cfg = config(folder, network, f"engine={engine}", "bits=6")
        if (network, engine) in REFUSED:
            with pytest.raises(
                InputError, match=f"^engine=integer: .*{REFUSED[network, engine]}.*; use engine=simulate$"
            ):
                run_point(cfg, sweep=None)
        else:
            run_point(cfg, sweep=None)
    runs = open_tracker(config(folder, network)).runs()
    runs = runs[(runs["params.bits"] == "6") & (runs["status"] == "finished")]
    ratios = dict(zip(runs["params.engine"], runs["metrics.logit_sqnr"], strict=True))
    assert {"simulate", "int8"} <= set(ratios)
    assert all(ratio == pytest.approx(ratios["simulate"], abs=0.5) for ratio in ratios.values())


REFUSED = {("detector", "integer"): "end with a layer's sums", ("unet", "integer"): "computed in float"}
