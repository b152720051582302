"""The whole sweep, five observers by five widths, against the loop that a person would write with torch.ao.

That loop makes a calibration pass for every point; at 8 bits it converts to PyTorch's integer kernels, below it runs
fake-quantize modules, as torch.ao has no kernels there. torch.ao has three observers for activations; HistogramObserver
stands in for the two that it lacks. The loop is measured twice: with batches of 128, as the study behind this project
had them, and with those that suit its fake-quantize modules best.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
import torch.ao.quantization as ao
from torch import Tensor, nn
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx, prepare_qat_fx

from benchmarks import subjects
from benchmarks.alternate import alternate, ratios, spread
from benchmarks.commands import BITS, OBSERVERS, SweepCommand, all_points, few_images
from benchmarks.result import save
from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.data import DataSet, calibration_indices, imagefolder
from quant_sweep.engines import Int8
from quant_sweep.evaluation.evaluate import evaluate
from quant_sweep.graph import Fusion, capture
from quant_sweep.observers import MSE, FakeHist, Hist, MinMax, MovingAverage
from quant_sweep.quantization.quantize import quantize

_TORCH_OBSERVERS = {"minmax": ao.MinMaxObserver, "moving_average": ao.MovingAverageMinMaxObserver}
_OBSERVERS = {"minmax": MinMax, "moving_average": MovingAverage, "hist": Hist, "fake_hist": FakeHist, "mse": MSE}
_COMMAND = "quant-sweep -m, MLflow included"
_LIBRARY = "the same as library calls"
_BATCH = 128


def measure(name: str, cifar10: Path, calibration_images: int, test_images: int, best_batch: int, rounds: int) -> None:
    """Write results/<CPU>/sweep_<name>.json.

    Args:
        best_batch: for fake-quantize modules of this network.
    """
    root = few_images(cifar10, calibration_images, test_images)
    command = SweepCommand(name, root, calibration_images)
    data = _data(root, command.folder / "cache")
    drawn = calibration_indices(data.train.labels, calibration_images, seed=0)
    batches = [data.normalize(part) for part in data.train.images[drawn].split(_BATCH)]
    loops = {f"a loop with torch.ao, batches of {size}": size for size in (_BATCH, best_batch)}
    model = subjects.network(name)
    turns: dict[str, Callable[[], object]] = {
        _COMMAND: lambda: command.run(all_points()),
        _LIBRARY: lambda: _library(model, data, batches),
    }
    for loop, size in loops.items():
        turns[loop] = lambda size=size: _torch_ao(model, data, batches, size)
    command.run(["observer=minmax", "bits=8"])  # decodes the images
    seconds = alternate(turns, rounds, warm_up=False)
    points = command.points()
    save(
        f"sweep_{name}",
        {
            "network": name,
            "points": len(points),
            "calibration_images": len(drawn),
            "test_images": len(data.test.labels),
            "rounds": rounds,
            "seconds": {way: spread(values) for way, values in seconds.items()},
            "ratios": {f"{loop} / {way}": ratios(seconds, loop, way) for loop in loops for way in (_COMMAND, _LIBRARY)},
            "evaluation_seconds_a_point": spread(points["metrics.evaluation_seconds"].tolist()),
        },
    )


def _data(root: Path, cache: Path) -> DataSet:
    mean, std = [0.4914, 0.4822, 0.4465], [0.2470, 0.2435, 0.2616]
    return imagefolder(name="cifar10", root=str(root), size=32, resize=None, mean=mean, std=std, cache_dir=str(cache))


def _library(model: nn.Module, data: DataSet, batches: list[Tensor]) -> None:
    calibration = calibrate(capture(model, batches[0], Fusion.conv_bn_relu), batches)
    for observer in OBSERVERS:
        for bits in BITS:
            quantized = quantize(calibration, bits=bits, observer=_OBSERVERS[observer](), engine=Int8())
            evaluate(quantized.network, data, data.test, batch_size=_BATCH)


@torch.no_grad()
def _torch_ao(model: nn.Module, data: DataSet, batches: list[Tensor], batch_size: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in OBSERVERS:
            observer = _TORCH_OBSERVERS.get(name, ao.HistogramObserver)
            for bits in BITS:
                point = _converted if bits == 8 else _fake_quantized
                network = point(copy.deepcopy(model), batches, observer, bits)
                torch.cat([network(data.normalize(part)).argmax(1) for part in data.test.images.split(batch_size)])


def _converted(model: nn.Module, batches: list[Tensor], observer: type, bits: int) -> nn.Module:
    assert bits == 8
    activation = observer.with_args(dtype=torch.quint8)
    qconfig = ao.QConfig(activation=activation, weight=ao.default_per_channel_weight_observer)
    prepared = prepare_fx(model, ao.QConfigMapping().set_global(qconfig), (batches[0],))
    for batch in batches:
        prepared(batch)
    return convert_fx(prepared)


def _fake_quantized(model: nn.Module, batches: list[Tensor], observer: type, bits: int) -> nn.Module:
    activation = ao.FakeQuantize.with_args(observer=observer, quant_min=0, quant_max=2**bits - 1, dtype=torch.quint8)
    weight = ao.FakeQuantize.with_args(
        observer=ao.PerChannelMinMaxObserver,
        quant_min=-(2 ** (bits - 1)),
        quant_max=2 ** (bits - 1) - 1,
        dtype=torch.qint8,
        qscheme=torch.per_channel_symmetric,
    )
    qconfig = ao.QConfigMapping().set_global(ao.QConfig(activation=activation, weight=weight))
    prepared = prepare_qat_fx(model.train(), qconfig, (batches[0],)).eval()
    prepared.apply(ao.disable_fake_quant).apply(ao.enable_observer)
    for batch in batches:
        prepared(batch)
    prepared.apply(ao.disable_observer).apply(ao.enable_fake_quant)
    return prepared
