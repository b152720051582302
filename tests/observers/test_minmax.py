"""MinMax is torch.ao's MinMaxObserver, exactly."""

import pytest
import torch
from distributions import AFFINE, SYMMETRIC, spec, summarize, tensor
from torch.ao.quantization.observer import MinMaxObserver

from quant_sweep.arithmetic.affine import qparams_from_range
from quant_sweep.observers import MinMax


@pytest.mark.parametrize(
    ("kind", "dtype", "qscheme"),
    [(AFFINE, torch.quint8, torch.per_tensor_affine), (SYMMETRIC, torch.qint8, torch.per_tensor_symmetric)],
)
@pytest.mark.parametrize("name", ["gaussian", "relu", "negative", "heavy", "constant", "shifted"])
def test_equals_torch_ao(name: str, kind: str, dtype: torch.dtype, qscheme: torch.qscheme) -> None:
    theirs = MinMaxObserver(dtype=dtype, qscheme=qscheme)
    batches = [tensor(name, seed=seed) for seed in range(4)]
    for batch in batches:
        theirs(batch)
    lo, hi = MinMax().range(summarize(*batches), spec(8, kind))
    assert (lo[0], hi[0]) == (theirs.min_val, theirs.max_val)
    ours, (scale, zero_point) = qparams_from_range(lo[0], hi[0], spec(8, kind)), theirs.calculate_qparams()
    assert (ours.scale, ours.zero_point) == (scale, zero_point)
