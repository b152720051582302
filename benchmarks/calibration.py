"""One calibration pass for all observers, against the plain forward and against what others' calibration costs."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from benchmarks import subjects
from benchmarks.alternate import alternate, ratios, spread, timed
from benchmarks.contestants import brevitas_network
from benchmarks.result import save
from quant_sweep import observers
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.graph import Fusion, capture
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs
from quant_sweep.runtime.in_cache import images_that_stay_in_cache, largest_bytes_an_image

_PLAIN = "plain float32 forward"
_IN_CACHE = "plain float32 forward, as many images at once as stay in the cache"
_OURS = "one pass for all observers"


@torch.no_grad()
def measure(name: str, batch_size: int, batches: int, rounds: int) -> None:
    """Write results/<CPU>/calibration_<name>.json."""
    model = subjects.network(name)
    parts = subjects.images(batch_size * batches).split(batch_size)
    bytes_an_image = largest_bytes_an_image(model, parts[0][:1])
    at_once = images_that_stay_in_cache(bytes_an_image, cached_bytes=2**21, fewest=8)  # as `evaluate` does
    graph = capture(model, parts[0], Fusion.conv_bn_relu)
    passes: dict[str, Callable[[], object]] = {
        _PLAIN: lambda: [model(batch) for batch in parts],
        _IN_CACHE: lambda: [model(few) for batch in parts for few in batch.split(at_once)],
        _OURS: lambda: calibrate(graph, parts),
        "torch.ao HistogramObserver": lambda: _torch_ao(model, parts),
        "Brevitas": lambda: _brevitas(model, parts),
    }
    seconds = alternate(passes, rounds)
    calibration = calibrate(graph, parts)
    search = {}
    for observer in _all_observers():
        for bits in (8, 4):
            specs = assign_specs(graph, AFFINE, BitWidths(bits, bits, {}))
            ask = partial(choose_qparams, calibration, specs, observer, MinMax())
            took = [timed(ask) for _ in range(rounds)]
            search[f"{type(observer).__name__}, {bits} bits"] = spread([s / len(graph.names) for s in took])
    save(
        f"calibration_{name}",
        {
            "network": name,
            "images": batch_size * batches,
            "batch_size": batch_size,
            "rounds": rounds,
            "seconds": {way: spread(values) for way, values in seconds.items()},
            "ratios": {f"{way} / {_PLAIN}": ratios(seconds, way, _PLAIN) for way in passes if way != _PLAIN},
            "search_seconds_per_tensor": search,
        },
    )


def _all_observers() -> list[observers.Observer]:
    classes = (getattr(observers, name) for name in observers.__all__ if name != "Observer")
    return [cls() for cls in classes]


def _torch_ao(model: nn.Module, batches: tuple[torch.Tensor, ...]) -> None:
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import prepare_fx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping("x86"), (batches[0],))
        for batch in batches:
            prepared(batch)


def _brevitas(model: nn.Module, batches: tuple[torch.Tensor, ...]) -> None:
    from brevitas.graph.calibrate import calibration_mode

    network = brevitas_network(model)
    with calibration_mode(network):
        for batch in batches:
            network(batch)
