"""Tensors like those that networks hold, and summaries of them."""

import torch
from torch import Tensor

from quant_sweep.arithmetic.affine import fake_quantize, qparams_from_range
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.histograms.summary import Collector, Summary
from quant_sweep.observers import Observer

AFFINE, SYMMETRIC = "affine", "symmetric"


def spec(bits: int, kind: str = AFFINE) -> QuantSpec:
    return QuantSpec(bits, signed=kind == SYMMETRIC, symmetric=kind == SYMMETRIC)


def tensor(name: str, n: int = 2000, seed: int = 0) -> Tensor:
    """float32 (n,)."""
    generator = torch.Generator().manual_seed(seed)
    x, u = torch.randn(n, generator=generator), torch.rand(n, generator=generator)
    return {
        "gaussian": lambda: x,
        "relu": lambda: x.relu(),
        "negative": lambda: -x.abs() - 0.25,
        "shifted": lambda: x + 3,
        "laplace": lambda: torch.log(u.clamp(min=1e-6)) * x.sign(),
        "heavy": lambda: x**5,
        "lognormal": lambda: x.exp(),
        "uniform": lambda: u * 2 - 1,
        "constant": lambda: torch.full((n,), 1.0001),
        "zeros": lambda: torch.zeros(n),
        "tiny": lambda: x * 1e-38,
        "one value": lambda: torch.tensor([3.3]),
        "one outlier": lambda: torch.cat([x[1:], torch.tensor([100.0])]),
    }[name]()


def summarize(*batches: Tensor) -> Summary:
    collector = Collector()
    for batch in batches:
        collector.update(batch)
    return collector.summary()


def squared_error(x: Tensor, lo: Tensor, hi: Tensor, grid: QuantSpec) -> float:
    """What the grid really costs these values."""
    return float(((x.double() - fake_quantize(x, qparams_from_range(lo, hi, grid)).double()) ** 2).sum())


def error_of(observer: Observer, x: Tensor, grid: QuantSpec) -> float:
    lo, hi = observer.range(summarize(x), grid)
    return squared_error(x, lo[0], hi[0], grid)
