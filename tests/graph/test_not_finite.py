"""A network that returns no numbers is refused by what is wrong with it, not as one that mixes up its images."""

import pytest
import torch
from small_networks import images, tiny
from torch import Tensor, nn

from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, capture


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_parameter_that_is_not_finite_is_named(bad: float) -> None:
    model = tiny()
    with torch.no_grad():
        model.conv2.weight[0, 0, 0, 0] = bad
    with pytest.raises(InputError, match=r"^model=Tiny: conv2\.weight holds NaN or infinity; use a sound checkpoint$"):
        capture(model, images(2), Fusion.conv_bn_relu)


def test_a_result_that_is_not_finite() -> None:
    class Logarithm(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.layer(x).log()

    with pytest.raises(InputError, match=r"^model=Logarithm: its result for the first images holds NaN or infinity$"):
        capture(Logarithm(), torch.randn(20, 3) * 10, Fusion.none)
