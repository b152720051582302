"""Collect once, on disk too: the summaries of a calibration pass under a key of what decides them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from quant_sweep.histograms.histogram import Histogram
from quant_sweep.histograms.summary import Summary
from quant_sweep.runtime.disk_cache import made_once
from quant_sweep.runtime.tensor_file import read_tensors, write_tensors

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
    stored = read_tensors(path)
    if stored is None:
        return None
    try:
        return {name: _summary(stored.tensors, i) for i, name in enumerate(json.loads(stored.text["names"]))}
    except (KeyError, ValueError):  # intact, and not ours
        return None


def write(path: Path, summaries: Summaries) -> None:
    """Write a cache file that appears at `path` whole or not at all."""
    tensors: dict[str, Tensor] = {}
    for i, summary in enumerate(summaries.values()):
        tensors |= {f"{i}.total.{field}": getattr(summary.total, field) for field in _FIELDS}
        for field in _FIELDS:
            tensors[f"{i}.recent.{field}"] = torch.stack([getattr(batch, field) for batch in summary.recent])
        tensors |= {f"{i}.batch_lo": summary.batch_lo, f"{i}.batch_hi": summary.batch_hi}
    write_tensors(path, tensors, {"names": json.dumps(list(summaries))})


def _summary(tensors: Mapping[str, Tensor], i: int) -> Summary:
    def part(name: str) -> list[Tensor]:
        return [tensors[f"{i}.{name}.{field}"] for field in _FIELDS]

    recent = tuple(Histogram(*fields) for fields in zip(*part("recent"), strict=True))
    return Summary(Histogram(*part("total")), recent, tensors[f"{i}.batch_lo"], tensors[f"{i}.batch_hi"])
