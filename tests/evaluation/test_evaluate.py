"""Predictions, accuracy, agreement; NaN never becomes a class."""

import math
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quant_sweep.data import DataSet, ImageSet
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.errors import InputError
from quant_sweep.evaluation.evaluate import Evaluation, KeptOutputs, evaluate, evaluate_original, keep_outputs
from quant_sweep.evaluation.metrics import Agreement, Custom, Metric, SquaredError, Top1, metric
from quant_sweep.evaluation.scoring import Scoring
from quant_sweep.graph import Fusion, Network, capture


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
    began = time.perf_counter()
    result = evaluate(network, data, data.test, batch_size)
    took = time.perf_counter() - began
    assert result.predictions.tolist() == [0, 1, 2, 3, 3, 2, 1]
    assert result.correct == 4
    assert result.accuracy == pytest.approx(400 / 7)
    assert 0 < result.seconds <= took
    assert result.images_per_second == pytest.approx(7 / result.seconds)
    # One image shows which layout it takes (two runs), and how many stay in the cache.
    assert network.batches[:3] == [1, 1, 1]
    batches = network.batches[3:]
    assert sum(batches) == 7
    assert max(batches) <= batch_size


def test_beside_the_float_network_its_noise_is_told(data: DataSet) -> None:
    class Louder(Brightness):
        def forward(self, x: Tensor) -> Tensor:
            return 1.1 * super().forward(x)

    found = evaluate(Louder(), data, data.test, batch_size=3, original=Brightness())
    assert found.logit_sqnr == pytest.approx(20.0, abs=1e-4)  # a tenth of every output
    assert evaluate(Louder(), data, data.test, batch_size=3).logit_sqnr is None


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
    assert network.batches == [1, 1, 1, 13, 13, 13, 13, 13, 5]


def test_the_float_network_is_moved_to_the_device_too(data: DataSet) -> None:
    class Elsewhere(nn.Module):
        """Computes nothing, so that it runs on any device; its logits lie on the CPU."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1))

        def forward(self, x: Tensor) -> Tensor:
            assert x.device == self.weight.device == torch.device("meta")
            return torch.eye(4)[torch.arange(len(x)) % 4]

    result = evaluate(Elsewhere(), data, data.test, 3, "meta", Agreement(), original=Elsewhere())
    assert result.value == 100.0


class Several(Brightness):
    """Returns a dict and a tuple in it."""

    def forward(self, x: Tensor) -> Any:
        logits = super().forward(x)
        return {"a": (logits, logits[:, :1] + 1.0), "b": x}


@pytest.mark.parametrize("network", [Brightness(), Several()], ids=["one tensor", "several"])
@pytest.mark.parametrize("batch_size", [3, 4, 7])
@pytest.mark.parametrize("beside_float", [True, False])
def test_ones_own_measure_of_all_samples_together(
    data: DataSet, network: nn.Module, batch_size: int, beside_float: bool
) -> None:
    """It is given all outputs, the float network's and the labels, in the order of the samples."""
    seen: list[Any] = []

    @metric(name="some", unit="", higher_is_better=True, mean=False)
    def some(*given: Any) -> float:
        seen.extend(given)
        return 2.5

    class Louder(nn.Module):
        def forward(self, x: Tensor) -> Any:
            return pytree.tree_map(lambda leaf: 1.1 * leaf, network(x))

    original = Louder() if beside_float else None
    result = evaluate(network, data, data.test, batch_size, metric=Custom(function=some), original=original)
    assert result.value == 2.5
    inputs = data.normalize(data.test.images)
    wanted = (network(inputs), original(inputs) if original else None, data.test.labels)
    assert len(seen) == 3
    for found, part in zip(seen, wanted, strict=True):
        assert pytree.tree_structure(found) == pytree.tree_structure(part)
        for a, b in zip(pytree.tree_leaves(found), pytree.tree_leaves(part), strict=True):
            assert a is b is None or torch.equal(a, b)


LOGITS, SCORES, COUNTS = torch.eye(4), torch.ones(4, 2, 3), torch.arange(4)
CLASSES, POSITIONS = torch.tensor([3, 1, 2, 0]), torch.zeros(4, 3, dtype=torch.int64)


@pytest.mark.parametrize(
    ("outputs", "output", "labels", "told"),
    [
        *((LOGITS, None, CLASSES, LOGITS), (LOGITS[:, :2], None, CLASSES, LOGITS[:, :2])),
        *((LOGITS[:, :1], None, CLASSES, None), (LOGITS[:, 0], None, CLASSES, None), (SCORES, None, CLASSES, None)),
        *((LOGITS, None, None, None), (LOGITS, None, CLASSES.float(), None), (LOGITS, None, POSITIONS, None)),
        *((LOGITS, None, POSITIONS.float(), None), (LOGITS, None, LOGITS, None)),
        ({"logits": LOGITS, "count": COUNTS}, None, CLASSES, LOGITS),  # the only floating one
        ({"logits": LOGITS, "boxes": LOGITS}, None, CLASSES, None),
        ({"boxes": LOGITS.flip(0), "logits": LOGITS}, "logits", CLASSES, LOGITS),
        ({"boxes": SCORES, "logits": LOGITS}, "boxes", CLASSES, None),
    ],
)
def test_where_classes_are_told_apart_they_are_kept(
    outputs: Any, output: str | None, labels: Tensor | None, told: Tensor | None
) -> None:
    """Whatever is measured: where samples have classes, and one tensor has a number for each class."""

    @metric(name="nothing", unit="", higher_is_better=True)
    def nothing(*_given: Any) -> Tensor:
        return torch.zeros(4)

    split = ImageSet(torch.zeros(4, 1, 2, 2, dtype=torch.uint8), labels)
    own = Custom(output, function=nothing)
    scoring = Scoring(own, split, lambda *_: pytree.tree_map(lambda part: 2 * part, outputs))
    scoring(0, None, outputs)
    found = scoring.evaluation(1.0)
    assert found.samples == 4
    if told is None:
        assert found.predictions is found.same_class is None
        return
    assert found.predictions.tolist() == told.argmax(dim=1).tolist()
    assert found.accuracy == 100.0 * (told.argmax(dim=1) == labels).sum() / 4
    assert found.same_class.tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("predictions", "labels"), [(None, CLASSES), (CLASSES, None), (None, None), (POSITIONS, POSITIONS)], ids=str
)
def test_no_accuracy_without_a_class_for_each_sample(predictions: Tensor | None, labels: Tensor | None) -> None:
    without = Evaluation(predictions, labels, 1.0, metric=SquaredError(), statistics=torch.ones(4, 1).double())
    assert without.value == 1.0
    with pytest.raises(InputError, match="metric=mse"):
        _ = without.accuracy


def test_outputs_that_are_kept_stand_for_their_network(data: DataSet) -> None:
    network = Brightness()
    (leaf,) = keep_outputs(network, data, data.test, 2, "cpu")
    assert network.batches[-4:] == [2, 2, 2, 1]
    assert torch.equal(leaf, network(data.normalize(data.test.images)))
    kept = KeptOutputs([leaf], pytree.tree_structure(leaf))
    for original in (kept, lambda _start, _stop, inputs: network(inputs)):
        again = evaluate_original(original, data, data.test, 3, "cpu", Top1())
        assert again.predictions.tolist() == [0, 1, 2, 3, 3, 2, 1]
        assert again.accuracy == pytest.approx(400 / 7)
    for original in (kept, network):
        assert evaluate(network, data, data.test, 3, metric=Agreement(), original=original).value == 100.0


@pytest.mark.parametrize("dtypes", [(torch.float64, torch.int64), (torch.float16, torch.bool)], ids=str)
def test_outputs_are_kept_in_their_own_type(data: DataSet, dtypes: tuple[torch.dtype, ...]) -> None:
    class Typed(Brightness):
        def forward(self, x: Tensor) -> Any:
            logits = super().forward(x) / 3
            return [logits.to(dtypes[0]), logits.round().to(dtypes[1])]

    kept = keep_outputs(Typed(), data, data.test, 3, "cpu")
    wanted = Typed()(data.normalize(data.test.images))
    assert [leaf.dtype for leaf in kept] == list(dtypes)
    assert all(map(torch.equal, kept, wanted))


class Layouts(nn.Module):
    """Notes whether the channels of its images lie side by side."""

    def __init__(self, features: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.features, self.side_by_side = features, list[bool]()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 4)

    def forward(self, x: Tensor) -> Tensor:
        self.side_by_side.append(x.is_contiguous(memory_format=torch.channels_last))
        return self.linear(self.features(self.conv(x)))


@pytest.mark.parametrize(
    ("features", "side_by_side"),
    [
        (lambda x: x.flatten(1), True),
        (lambda x: x.view(x.shape[0], -1), False),  # fails where the channels lie side by side
        (lambda x: x.as_strided((x.shape[0], 144), (144, 1)), False),  # takes other values there
    ],
    ids=["flatten", "view", "as_strided"],
)
def test_images_lie_as_a_persons_network_takes_them(features: Callable[[Tensor], Tensor], side_by_side: bool) -> None:
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8)
    split = ImageSet(pixels, torch.zeros(20, dtype=torch.int64))
    data = DataSet("noise", ("a", "b", "c", "d"), split, split, (0.5,) * 3, (0.5,) * 3, "f")
    network = Layouts(features)
    found = evaluate(network, data, split, batch_size=8).predictions
    assert network.side_by_side[-3:] == [side_by_side] * 3
    with torch.no_grad():
        assert torch.equal(found, network(data.normalize(pixels).contiguous()).argmax(1))
        graph = capture(network, data.normalize(pixels), Fusion.conv_bn_relu)
    assert torch.equal(evaluate(Network(graph.graph), data, split, batch_size=8).predictions, found)


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


@pytest.mark.parametrize(("metric", "sign"), [(Top1(), 1), (SquaredError(target="float"), -1)])
def test_what_was_lost_counts_in_the_direction_of_the_metric(metric: Metric, sign: int) -> None:
    """Above 0 where it is worse than in float; its error is that of the difference, sample by sample."""
    generator = torch.Generator().manual_seed(0)
    here, there = (torch.rand(50, 1, generator=generator, dtype=torch.float64) for _ in range(2))
    made, original = (Evaluation(None, None, 1.0, metric=metric, statistics=statistics) for statistics in (here, there))
    lost, error = made.drop(original)
    assert lost == pytest.approx(sign * float(there.mean() - here.mean()))
    assert error == pytest.approx(float((there - here).std()) / math.sqrt(50))
    without = replace(made, statistics=None, measured=3.0)
    for one, other in ((without, original), (original, without)):
        lost, error = one.drop(other)
        assert (lost, error) == (pytest.approx(sign * (other.value - one.value)), None)


def test_agreement() -> None:
    assert result(1, 2, 3, 0).agreement(result(1, 2, 0, 0)) == 75.0
    assert result(1, 2).agreement(result(1, 2)) == 100.0
    assert result(1, 2).agreement(result(2, 1)) == 0.0
    with pytest.raises(ValueError, match="2 and 3"):
        result(1, 2).agreement(result(1, 2, 3))
    without = Evaluation(None, torch.zeros(2), 1.0)
    for one, other, counts in ((without, result(1, 2), "no and 2"), (result(1, 2), without, "2 and no")):
        with pytest.raises(ValueError, match=counts):
            one.agreement(other)
