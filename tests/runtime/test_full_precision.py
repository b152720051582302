"""Nothing that is compared is computed in TF32."""

import pytest
import torch
from small_networks import images, tiny
from torch import Tensor, nn

from quant_sweep.calibration.one_pass import calibrate
from quant_sweep.data import DataSet, ImageSet
from quant_sweep.evaluation.evaluate import evaluate
from quant_sweep.graph import Fusion, capture
from quant_sweep.runtime.full_precision import full_precision


class Watch(nn.Module):
    """Notes whether convolutions may use TF32 while it runs."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[bool] = []
        self.layer = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(torch.backends.cudnn.allow_tf32)
        return self.layer(x).mean((2, 3))


@pytest.fixture(autouse=True)
def tf32_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)


def test_inside_and_after() -> None:
    with full_precision():
        assert not torch.backends.cudnn.allow_tf32
    assert torch.backends.cudnn.allow_tf32


def test_evaluation() -> None:
    watch = Watch()
    shown = ImageSet(torch.zeros(2, 3, 8, 8, dtype=torch.uint8), torch.tensor([0, 1]))
    data = DataSet("noise", ("a", "b"), shown, shown, (0.5, 0.5, 0.5), (0.2, 0.2, 0.2), "fingerprint")
    evaluate(watch, data, shown, batch_size=2)
    # Trying two layouts of the images, measuring how many of them stay in the cache, and predicting.
    assert watch.seen == [False] * 4


def test_calibration() -> None:
    seen = []

    def batches():
        yield images(2)
        seen.append(torch.backends.cudnn.allow_tf32)

    calibrate(capture(tiny(), images(2), Fusion.bn), batches())
    assert seen == [False]
