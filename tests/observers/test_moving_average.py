"""MovingAverage is torch.ao's MovingAverageMinMaxObserver over the same batches."""

import pytest
import torch
from distributions import spec, summarize, tensor
from torch.ao.quantization.observer import MovingAverageMinMaxObserver

from quant_sweep.errors import InputError
from quant_sweep.observers import MovingAverage


@pytest.mark.parametrize("constant", [0.01, 0.1, 1.0])
@pytest.mark.parametrize("name", ["gaussian", "relu", "negative", "heavy"])
def test_equals_torch_ao(name: str, constant: float) -> None:
    theirs = MovingAverageMinMaxObserver(averaging_constant=constant)
    batches = [tensor(name, seed=seed) for seed in range(8)]
    for batch in batches:
        theirs(batch)
    lo, hi = MovingAverage(constant).range(summarize(*batches), spec(8))
    torch.testing.assert_close(lo[0], theirs.min_val, rtol=1e-6, atol=0)
    torch.testing.assert_close(hi[0], theirs.max_val, rtol=1e-6, atol=0)


def test_the_order_of_batches_matters() -> None:
    quiet, loud = torch.tensor([0.0, 1.0]), torch.tensor([0.0, 11.0])
    assert MovingAverage(0.1).range(summarize(quiet, loud), spec(8))[1].item() == pytest.approx(2.0)
    assert MovingAverage(0.1).range(summarize(loud, quiet), spec(8))[1].item() == pytest.approx(10.0)


@pytest.mark.parametrize("value", [0.0, -0.1, 1.1, float("nan")])
def test_bad_weight(value: float) -> None:
    with pytest.raises(InputError, match=rf"^averaging_constant={value}: allowed are values above 0, up to 1$"):
        MovingAverage(value)
