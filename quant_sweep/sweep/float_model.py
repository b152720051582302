"""The float network on the test samples: run once for each model, data and device, whatever is measured of it.

Its outputs are kept in the cache folder, since agreement, logit SQNR and paired tests of every point need them; where
they are too many, the network is run beside each point instead.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from quant_sweep.data import DataSet
from quant_sweep.evaluation.evaluate import Evaluation, KeptOutputs, Original, evaluate_original, keep_outputs
from quant_sweep.graph import Network
from quant_sweep.runtime.disk_cache import made_once
from quant_sweep.runtime.tensor_file import read_tensors, write_tensors
from quant_sweep.sweep.build import LoadedModel
from quant_sweep.sweep.choices import build
from quant_sweep.sweep.content_key import content_key
from quant_sweep.sweep.prepare import Prepared

log = logging.getLogger(__name__)

_MOST_BYTES = 2**29  # of outputs that are kept


@dataclass(frozen=True, eq=False)
class FloatModel:
    """What the float network says of the test samples.

    Attributes:
        outputs: of any of them.
        evaluation: what is measured of it.
    """

    outputs: Original
    evaluation: Evaluation


def float_model(prepared: Prepared) -> FloatModel:
    """The float network of a point, measured as the point is."""
    point = prepared.point
    node = json.dumps(point.settings["metric"], sort_keys=True)
    batch_size, cache_dir = point.settings["batch_size"], point.settings["cache_dir"]
    return _float_model(prepared.model, prepared.data, point.device, node, batch_size, cache_dir)


@functools.lru_cache(maxsize=1)
def _float_model(
    model: LoadedModel, data: DataSet, device: torch.device, node: str, batch_size: int, cache_dir: str
) -> FloatModel:
    metric = build("metric", json.loads(node))
    if _bytes(model.captured.outputs) * len(data.test) > _MOST_BYTES * len(model.captured.images):
        log.info("the float network's outputs are too many to keep; it is run again beside each point")
        network = Network(model.captured.graph).to(device)  # which threads may share
        outputs: Original = lambda _start, _stop, inputs: network(inputs)  # noqa: E731
        return FloatModel(outputs, evaluate_original(outputs, data, data.test, batch_size, device, metric))
    key = content_key({"outputs": True, "model": model.digest, "data": data.fingerprint, "device": device.type})
    path = Path(cache_dir).expanduser() / "outputs" / f"{key}.safetensors"

    def make() -> tuple[list[Tensor], float]:
        began = time.perf_counter()
        return keep_outputs(model.module, data, data.test, batch_size, device), time.perf_counter() - began

    leaves, seconds = made_once(path, _read, make, _write)
    kept = KeptOutputs(leaves, model.captured.graph.structure)
    evaluation = evaluate_original(kept, data, data.test, batch_size, device, metric)
    return FloatModel(kept, replace(evaluation, seconds=seconds))  # those of the pass


def _bytes(outputs: object) -> int:
    return sum(leaf.nbytes for leaf in pytree.tree_leaves(outputs))


def _read(path: Path) -> tuple[list[Tensor], float] | None:
    stored = read_tensors(path)
    if stored is None or "seconds" not in stored.text:
        return None
    return [stored.tensors[str(i)] for i in range(len(stored.tensors))], float(stored.text["seconds"])


def _write(path: Path, made: tuple[list[Tensor], float]) -> None:
    leaves, seconds = made
    write_tensors(path, {str(i): leaf for i, leaf in enumerate(leaves)}, {"seconds": repr(seconds)})
