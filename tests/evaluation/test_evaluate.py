"""Predictions, accuracy, agreement; NaN never becomes a class."""

import threading

import pytest
import torch
from torch import Tensor, nn

from quant_sweep.data import DataSet, ImageSet
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.evaluation.evaluate import Evaluation, evaluate


class Brightness(nn.Module):
    """Class = which of 4 levels the first pixel has, found from the normalised image."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.batches.append(len(x))
        level = (x[:, 0, 0, 0] * 0.5 + 0.5) * 3  # undoes mean 0.5, std 0.5
        return -(level[:, None] - torch.arange(4)).abs()


@pytest.fixture
def data() -> DataSet:
    levels = torch.tensor([0, 1, 2, 3, 3, 2, 1])
    images = (levels * 85).to(torch.uint8)[:, None, None, None].expand(-1, 1, 2, 2).contiguous()
    split = ImageSet(images, torch.tensor([0, 1, 2, 3, 0, 0, 0]))
    return DataSet("levels", ("a", "b", "c", "d"), split, split, (0.5,), (0.5,), "f")


@pytest.mark.parametrize("batch_size", [1, 3, 7, 100])
def test_predicts_every_image_once(data: DataSet, batch_size: int) -> None:
    network = Brightness()
    result = evaluate(network, data, data.test, batch_size)
    assert result.predictions.tolist() == [0, 1, 2, 3, 3, 2, 1]
    assert result.correct == 4
    assert result.accuracy == pytest.approx(400 / 7)
    assert result.seconds > 0
    assert result.images_per_second == pytest.approx(7 / result.seconds)
    measured, *batches = network.batches  # how many images stay in the cache is measured with one
    assert measured == 1
    assert sum(batches) == 7
    assert max(batches) <= batch_size


def test_a_float_network_gets_as_many_images_as_stay_in_the_cache(data: DataSet) -> None:
    class Wide(Brightness):
        def __init__(self) -> None:
            super().__init__()
            self.blow_up = nn.Upsample(scale_factor=100)  # of 2 x 2 pixels: 160 kB

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.blow_up(x))

    many = ImageSet(data.test.images.repeat(10, 1, 1, 1), data.test.labels.repeat(10))
    network = Wide()
    assert evaluate(network, data, many, 1000).accuracy == pytest.approx(400 / 7)
    assert network.batches == [1, 13, 13, 13, 13, 13, 5]


@pytest.mark.parametrize("batch_size", [1, 30, 1000])
def test_threads_share_out_the_images_of_a_network_of_codes(data: DataSet, batch_size: int) -> None:
    class Codes(NetworkOfCodes):
        def __init__(self) -> None:
            super().__init__()
            self.brightness, self.threads = Brightness(), set[int]()

        def forward(self, x: Tensor) -> Tensor:
            self.threads.add(threading.get_ident())
            return self.brightness(x)

        def codes(self, images: Tensor) -> dict[str, Tensor]:
            raise NotImplementedError

    many = ImageSet(data.test.images.repeat(10, 1, 1, 1), data.test.labels.repeat(10))
    network = Codes()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        result = evaluate(network, data, many, batch_size)
    finally:
        torch.set_num_threads(before)
    assert result.predictions.tolist() == [0, 1, 2, 3, 3, 2, 1] * 10
    assert threading.get_ident() not in network.threads
    assert max(network.brightness.batches) <= batch_size


def test_nan_is_no_class(data: DataSet) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            logits = torch.zeros(len(x), 4)
            logits[-1, 2] = torch.nan
            return logits

    with pytest.raises(FloatingPointError, match="NaN"):
        evaluate(Broken(), data, data.test, 3)


def result(*predictions: int) -> Evaluation:
    return Evaluation(torch.tensor(predictions), torch.zeros(len(predictions), dtype=torch.int64), 1.0)


def test_agreement() -> None:
    assert result(1, 2, 3, 0).agreement(result(1, 2, 0, 0)) == 75.0
    assert result(1, 2).agreement(result(1, 2)) == 100.0
    assert result(1, 2).agreement(result(2, 1)) == 0.0
    with pytest.raises(ValueError, match="2 and 3"):
        result(1, 2).agreement(result(1, 2, 3))
