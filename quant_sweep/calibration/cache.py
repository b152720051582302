"""Collect once, on disk too: the summaries of a calibration pass, as safetensors under a key of what decides them.

A file is used only when the sha256 of its tensors is the one that was written with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Summary
from quant_sweep.runtime.atomic_file import replacing
from quant_sweep.runtime.disk_cache import made_once

Summaries = Mapping[str, Summary]

_FIELDS = ("lo", "hi", "exponent", "first", "counts")


def collected_once(key: str, cache_dir: str | Path, collect: Callable[[], Summaries]) -> Summaries:
    """The summaries that `key` stands for, from the cache or from a pass made now.

    Args:
        key: names everything that decides them: weights, graph, images, their order and batches, device, code.
        cache_dir: the file goes to cache_dir/summaries.
        collect: makes the pass; called at most once, and by one process at a time.

    Raises:
        InputError: cache_dir cannot be written.
    """
    path = Path(cache_dir).expanduser() / "summaries" / f"{key}.safetensors"
    return made_once(path, read_intact, collect, write)


def read_intact(path: Path) -> Summaries | None:
    """Read a cache file; None where there is none, or where it does not hold what its digest says."""
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118  (it is no dict)
        if _digest(tensors) != metadata.get("digest"):
            return None
        names = json.loads(metadata["names"])
        return {name: _summary(tensors, i) for i, name in enumerate(names)}
    except (OSError, SafetensorError, KeyError, ValueError):  # cut off, not safetensors, or not ours
        return None


def write(path: Path, summaries: Summaries) -> None:
    """Write a cache file that appears at `path` whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for i, summary in enumerate(summaries.values()):
        tensors |= {f"{i}.total.{field}": getattr(summary.total, field) for field in _FIELDS}
        for field in _FIELDS:
            tensors[f"{i}.recent.{field}"] = torch.stack([getattr(batch, field) for batch in summary.recent])
        tensors |= {f"{i}.batch_lo": summary.batch_lo, f"{i}.batch_hi": summary.batch_hi}
    metadata = {"names": json.dumps(list(summaries)), "digest": _digest(tensors)}
    with replacing(path) as unfinished:
        save_file({key: tensor.contiguous() for key, tensor in tensors.items()}, unfinished, metadata=metadata)


def _summary(tensors: Mapping[str, Tensor], i: int) -> Summary:
    def part(name: str) -> list[Tensor]:
        return [tensors[f"{i}.{name}.{field}"] for field in _FIELDS]

    recent = tuple(Histogram(*fields) for fields in zip(*part("recent"), strict=True))
    return Summary(Histogram(*part("total")), recent, tensors[f"{i}.batch_lo"], tensors[f"{i}.batch_hi"])


def _digest(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for key in sorted(tensors):
        tensor = tensors[key].contiguous()
        digest.update(f"{key} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
