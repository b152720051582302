"""Every metric is what a plain loop over samples gives; its error is that of resampled test sets."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from own_package.metrics import box_error
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from quant_sweep import PSNR, Agreement, Custom, LogitSQNR, MeanIoU, Metric, SquaredError, Top1, TopK, metric
from quant_sweep.errors import InputError
from quant_sweep.evaluation.metrics.base import Batch, named_outputs, standard_error, value_of
from quant_sweep.evaluation.metrics.chosen import auto
from quant_sweep.evaluation.metrics.own import custom
from quant_sweep.evaluation.metrics.signals import power_of

GENERATOR = torch.Generator().manual_seed(0)
COUNT, CLASSES = 200, 4
LABELS = torch.randint(0, CLASSES, (COUNT,), generator=GENERATOR)
LOGITS = torch.randn(COUNT, CLASSES, generator=GENERATOR) + torch.eye(CLASSES)[LABELS]
FLOAT = LOGITS + 0.3 * torch.randn(COUNT, CLASSES, generator=GENERATOR)
MASKS = torch.randint(0, CLASSES, (COUNT, 3, 3), dtype=torch.uint8, generator=GENERATOR)
MASKS[::7, 0, 0] = 255
MASKS[::5, 1, 1] = CLASSES  # no class of the network's
DENSE = torch.randn(COUNT, CLASSES, 3, 3, generator=GENERATOR)


def miou(rows: list[int], ignore: int = 255) -> float:
    ratios = []
    for category in range(CLASSES):
        both = union = 0
        for i in rows:
            for y, said in zip(MASKS[i].flatten().tolist(), DENSE[i].argmax(0).flatten().tolist(), strict=True):
                if y < CLASSES and y != ignore:
                    both += y == said == category
                    union += y == category or said == category
        ratios += [both / union] if union else []
    return 100 * sum(ratios) / len(ratios)


def power(rows: list[int]) -> float:
    signal = sum(FLOAT[i].double().square().sum().item() for i in rows)
    return 10 * math.log10(signal / sum((FLOAT[i].double() - LOGITS[i].double()).square().sum().item() for i in rows))


def error(rows: list[int]) -> float:
    return sum((FLOAT[i] - LOGITS[i]).double().square().mean().item() for i in rows) / len(rows)


def right(rows: list[int], k: int) -> float:
    return 100 * sum(LABELS[i].item() in LOGITS[i].topk(k).indices.tolist() for i in rows) / len(rows)


LOGIT_BATCH, DENSE_BATCH = Batch(LOGITS, FLOAT, None, LABELS), Batch(DENSE, DENSE, None, MASKS)
TWINS: dict[str, tuple[Metric, Batch, Any]] = {
    "top1": (Top1(), LOGIT_BATCH, lambda rows: right(rows, 1)),
    "topk": (TopK(k=2), LOGIT_BATCH, lambda rows: right(rows, 2)),
    "agreement": (
        *(Agreement(), LOGIT_BATCH),
        lambda rows: 100 * sum(int(LOGITS[i].argmax()) == int(FLOAT[i].argmax()) for i in rows) / len(rows),
    ),
    "logit_sqnr": (LogitSQNR(), LOGIT_BATCH, power),
    "mse": (SquaredError(target="float"), LOGIT_BATCH, error),
    "psnr": (PSNR(target="float", range=3.0), LOGIT_BATCH, lambda rows: 10 * math.log10(9 / error(rows))),
    "miou": (MeanIoU(), DENSE_BATCH, miou),
    "miou of all": (MeanIoU(ignore=None), DENSE_BATCH, miou),
    "miou without a class": (MeanIoU(ignore=1), DENSE_BATCH, lambda rows: miou(rows, ignore=1)),
}


@pytest.mark.parametrize("name", TWINS)
def test_a_plain_loop(name: str) -> None:
    measured, batch, twin = TWINS[name]
    statistics = measured.statistics(batch)
    assert statistics.dtype == torch.float64
    assert value_of(measured, statistics) == pytest.approx(twin(list(range(COUNT))), rel=1e-9)
    assert value_of(measured, statistics[:30]) == pytest.approx(twin(list(range(30))), rel=1e-7)


@pytest.mark.parametrize("name", TWINS)
def test_standard_errors_are_those_of_resampled_test_sets(name: str) -> None:
    measured, batch, _ = TWINS[name]
    statistics = measured.statistics(batch)
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, COUNT, (400, COUNT)))
    values = torch.tensor([value_of(measured, statistics[rows]) for rows in drawn])
    assert standard_error(measured, statistics) == pytest.approx(float(values.std()), rel=0.15)
    assert standard_error(measured, statistics, statistics) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize("name", TWINS)
def test_gradients_are_those_of_the_values(name: str) -> None:
    measured, batch, _ = TWINS[name]
    mean = measured.statistics(batch).mean(dim=0)
    if name.startswith("miou"):
        mean = mean.index_fill(0, torch.tensor([0, CLASSES]), 0.0)  # a class that does not occur
    wanted = torch.autograd.functional.jacobian(measured.value, mean)
    torch.testing.assert_close(measured.gradient(mean), wanted, rtol=1e-12, atol=0)


def test_a_class_of_few_positions_counts_as_every_other() -> None:
    """One of 4 * 3 positions is of class 1 and is taken for class 0: (11 / 12 + 0 / 1) / 2."""
    labels = torch.zeros(4, 3, dtype=torch.uint8)
    labels[0, 0] = 1
    dense = torch.tensor([2.0, 1.0, 0.0])[:, None].expand(4, 3, 3)
    mean = MeanIoU().statistics(Batch(dense, None, None, labels)).mean(dim=0)
    assert MeanIoU().value(mean).item() == pytest.approx(100 * 11 / 24)
    by_both, by_union = (
        MeanIoU().gradient(mean).chunk(2)
    )  # b and u: (b / u + b' / u') / 2 by b, b', u and u', in percent
    assert by_both.tolist() == pytest.approx([50 / (12 / 4), 50 / (1 / 4), 0])
    assert by_union.tolist() == pytest.approx([-50 * (11 / 4) / (12 / 4) ** 2, 0, 0])


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_agreement_of_dense_outputs_is_that_of_their_positions(axes: int) -> None:
    one, other = torch.randn(2, 5, CLASSES, *(2, 3, 4)[:axes], generator=GENERATOR)
    statistics = Agreement().statistics(Batch(one, other, None, None))
    assert (statistics.shape, statistics.dtype) == ((5, 1), torch.float64)
    for i in range(5):
        said = [part[i].flatten(1).T.tolist() for part in (one, other)]
        same = [a.index(max(a)) == b.index(max(b)) for a, b in zip(*said, strict=True)]
        assert statistics[i].item() == pytest.approx(100 * sum(same) / len(same))


@pytest.mark.parametrize("name", TWINS)
def test_outputs_may_lie_on_a_gpu_and_all_else_beside_it(name: str) -> None:
    """Fake tensors have a device and no values; operations refuse those of two devices."""
    measured, batch, _ = TWINS[name]
    with FakeTensorMode(shape_env=ShapeEnv()) as mode:
        fake = [mode.from_tensor(t) for t in (batch.outputs, batch.original, batch.labels)]
        outputs = fake[0].to("cuda")
        with pytest.raises(RuntimeError, match="device"):
            outputs + fake[1]
        assert len(measured.statistics(Batch(outputs, fake[1], None, fake[2]))) == COUNT


def test_paired_differences_have_smaller_errors() -> None:
    own, original = (Top1().statistics(Batch(logits, None, None, LABELS)) for logits in (LOGITS, FLOAT))
    paired = standard_error(Top1(), own, original)
    difference = (original - own)[:, 0]
    assert paired == pytest.approx(float(difference.std()) / math.sqrt(COUNT))
    assert paired < math.hypot(*(standard_error(Top1(), part) for part in (own, original)))


def test_two_samples_have_an_error() -> None:
    assert standard_error(Top1(), torch.tensor([[0.0], [100.0]]).double()) == pytest.approx(50)


def test_no_error_of_one_sample_or_of_no_noise() -> None:
    with warnings.catch_warnings(action="error"):
        assert standard_error(Top1(), Top1().statistics(Batch(LOGITS[:1], None, None, LABELS[:1]))) is None
    nothing_counts = MeanIoU(ignore=2).statistics(Batch(DENSE, None, None, torch.full_like(MASKS, 2)))
    assert standard_error(MeanIoU(ignore=2), nothing_counts) is None
    noise, none = (LogitSQNR().statistics(Batch(outputs, LOGITS, None, None)) for outputs in (FLOAT, LOGITS))
    assert standard_error(LogitSQNR(), none) is None
    assert standard_error(LogitSQNR(), noise) is not None
    assert standard_error(LogitSQNR(), noise, none) is None, "the difference to infinitely many dB"


OUTPUTS = {"boxes": torch.zeros(2, 4), "heads": (torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))}


def test_of_several_outputs_one_is_named() -> None:
    assert list(named_outputs(OUTPUTS)) == ["boxes", "heads.0"]
    assert LogitSQNR(output="heads.0").read(OUTPUTS) is OUTPUTS["heads"][0]
    assert LogitSQNR().read({"only": LOGITS, "count": LABELS}) is LOGITS
    with pytest.raises(
        InputError, match=r"^metric\.output=null: the network returns several tensors; allowed are boxes, h"
    ):
        LogitSQNR().read(OUTPUTS)
    with pytest.raises(
        InputError, match=r"^metric\.output=x: the network returns no such floating tensor; allowed are boxes"
    ):
        LogitSQNR(output="x").read(OUTPUTS)
    with pytest.raises(InputError, match=r"^metric\.output=boxes: .*; allowed are null"):
        LogitSQNR(output="boxes").check(LOGIT_BATCH, CLASSES)


@pytest.mark.parametrize("labels", [None, torch.ones(COUNT, CLASSES)], ids=["no labels", "labels"])
@pytest.mark.parametrize("measured", [PSNR, SquaredError])
@pytest.mark.parametrize("target", [None, "labels", "inputs", "float"])
def test_an_error_is_that_against_its_target(
    measured: type[PSNR | SquaredError], target: str | None, labels: Tensor | None
) -> None:
    """Inputs are asked for where, and only where, they are the target."""
    inputs = torch.zeros(COUNT, CLASSES)
    found = {"labels": labels, "inputs": inputs, "float": FLOAT}
    wanted = found[target or ("inputs" if labels is None else "labels")]
    own = measured(target=target)
    reads_inputs = own.reads_inputs(labels is not None)
    assert reads_inputs == (wanted is inputs)
    batch = Batch(LOGITS, FLOAT, inputs if reads_inputs else None, labels)
    if wanted is None:
        with pytest.raises(InputError, match="target=labels"):
            own.check(batch, 0)
        return
    own.check(batch, 0)
    error = (LOGITS.double() - wanted.double()).square().mean(dim=1)
    torch.testing.assert_close(own.statistics(batch)[:, 0], error, rtol=1e-12, atol=0)


@pytest.mark.parametrize("measured", [Top1(), TopK(k=2), Agreement(), LogitSQNR(), MeanIoU()], ids=lambda own: own.name)
@pytest.mark.parametrize("labelled", [True, False])
def test_no_other_metric_asks_for_inputs(measured: Metric, labelled: bool) -> None:
    assert not measured.reads_inputs(labelled)


@pytest.mark.parametrize(
    ("labels", "outputs"), [((4,), (1, 4)), ((4, 1), (4,)), ((2, 1, 2), (2, 2)), ((1,), ()), ((), (1, 1))], ids=str
)
def test_targets_may_have_other_axes_of_one_number(labels: tuple[int, ...], outputs: tuple[int, ...]) -> None:
    made, target = torch.randn(3, *outputs, generator=GENERATOR), torch.randn(3, *labels, generator=GENERATOR)
    batch = Batch(made, None, None, target)
    SquaredError().check(batch, 0)
    wanted = (made.double().reshape(3, -1) - target.double().reshape(3, -1)).square().mean(dim=1)
    assert SquaredError().statistics(batch)[:, 0].tolist() == pytest.approx(wanted.tolist())


@pytest.mark.parametrize(
    ("measured", "batch", "words"),
    [
        (Top1(), Batch(DENSE, None, None, LABELS), r"returns a tensor \(n, 4, 3, 3\), but the images have 4 classes"),
        (TopK(k=4), LOGIT_BATCH, "metric.k=4: allowed are whole numbers from 1 to 3"),
        (TopK(k=0), LOGIT_BATCH, "metric.k=0: allowed are whole numbers from 1 to 3"),
        (TopK(k=True), LOGIT_BATCH, "metric.k=True: allowed are whole numbers from 1 to 3"),
        (Agreement(), Batch(LOGITS[:, :1], None, None, None), "tells no classes apart"),
        (Agreement(), Batch(LOGITS[:, 0], None, None, None), r"\(n\), which tells no classes apart"),
        (MeanIoU(), Batch(DENSE, None, None, LABELS), r"labels are \(n\) of 4 classes"),
        (MeanIoU(), LOGIT_BATCH, r"returns \(n, 4\) and labels are \(n\) of 4 classes"),
        (MeanIoU(), Batch(DENSE, None, None, None), "labels are none of 4 classes"),
        (MeanIoU(), Batch(DENSE, None, None, MASKS[:, :2]), r"returns \(n, 4, 3, 3\) and labels are \(n, 2, 3\)"),
        (MeanIoU(), Batch(DENSE[:, :3], None, None, MASKS), r"returns \(n, 3, 3, 3\) and .* 4 classes"),
        (SquaredError(), LOGIT_BATCH, r"metric.target=null: the labels are \(\), and the network returns \(4,\)"),
        (SquaredError(), Batch(LOGITS, None, None, DENSE[..., 0]), r"the labels are \(4, 3\), and the network returns"),
        (SquaredError(), Batch(MASKS.mT, None, None, MASKS[:, :1].mT), r"the labels are \(3, 1\), and the .* \(3, 3\)"),
        (
            SquaredError(),
            Batch(torch.zeros(2, 2, 3), None, None, torch.zeros(2, 3, 2)),
            r"the labels are \(3, 2\), and the network returns \(2, 3\)",
        ),
        (SquaredError(), Batch(LOGITS, None, None, None), r"the inputs are nothing, and the network returns \(4,\)"),
        (SquaredError(target="x"), LOGIT_BATCH, "metric.target=x: allowed are labels, inputs, float"),
        (PSNR(), LOGIT_BATCH, r"metric.target=null: the labels are \(\), and the network returns \(4,\)"),
        (PSNR(range=0.0), LOGIT_BATCH, "metric.range=0.0: allowed are numbers above 0"),
        (
            LogitSQNR(),
            Batch(OUTPUTS, OUTPUTS, None, None),
            r"^metric\.output=null: the network returns several tensors",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Metric) else "",
)
def test_refused_in_one_line(measured: Metric, batch: Batch, words: str) -> None:
    with pytest.raises(InputError, match=words):
        measured.check(batch, CLASSES)


@pytest.mark.parametrize(
    ("measured", "batch", "classes"),
    [
        *((TopK(k=k), LOGIT_BATCH, CLASSES) for k in (1, 3)),
        *((Agreement(), Batch(part, part, None, None), 0) for part in (LOGITS[:, :2], DENSE[:, :2])),
        *((MeanIoU(), DENSE_BATCH, classes) for classes in (CLASSES - 1, CLASSES)),
    ],
    ids=lambda value: repr(value) if isinstance(value, Metric) else "",
)
def test_allowed_to_the_limit(measured: Metric, batch: Batch, classes: int) -> None:
    measured.check(batch, classes)
    assert measured.statistics(batch).isfinite().all()


@pytest.mark.parametrize(
    ("labels", "name"),
    [
        *((None, "agreement"), (torch.zeros(3), "mse"), (torch.zeros(3, 2, 2), "mse")),
        *((LABELS, "top1"), (MASKS, "miou"), (MASKS[:, 0], "miou")),
    ],
)
def test_what_fits_the_labels(labels: Tensor | None, name: str) -> None:
    assert auto(labels=labels) == name


def test_positions_may_lie_on_any_number_of_axes() -> None:
    for axes in (1, 2, 3):
        shape = (5, 6, 7)[:axes]
        MeanIoU().check(Batch(torch.zeros(2, CLASSES, *shape), None, None, torch.zeros(2, *shape)), CLASSES)


def test_of_several_outputs_all_make_noise_unless_one_is_named() -> None:
    one, other = torch.tensor([[3.0, 4.0]]), torch.tensor([[12.0]])
    found, wanted = (one + 1, {"b": other - 3}), (one, {"b": other})
    assert power_of(Top1(), found, wanted).tolist() == [[25 + 144, 1 + 1 + 9]]
    assert power_of(Top1(output="1.b"), found, wanted).tolist() == [[144, 9]]
    classes = {"mask": torch.tensor([1, 2])}
    assert power_of(Top1(), classes, classes).tolist() == [[0, 0], [0, 0]]  # nothing floating


def test_a_network_may_return_a_number_for_each_sample_without_an_axis() -> None:
    made, original = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5])
    batch = Batch(made, original, None, None)
    assert SquaredError(target="float").statistics(batch).tolist() == [[4.0], [0.25]]
    assert LogitSQNR().statistics(batch).tolist() == [[9.0, 4.0], [6.25, 0.25]]


def test_ones_own() -> None:
    boxes, labels = torch.rand(5, 4, generator=GENERATOR), torch.zeros(5, 4)
    own = Custom(function=box_error)
    assert (own.name, own.unit, own.higher_is_better, own.kind) == ("box_error", "px", False, "mean")
    statistics = own.statistics(Batch({"boxes": boxes}, None, None, labels))
    assert value_of(own, statistics) == pytest.approx(boxes.mean().item())

    @metric(name="near", unit="%", higher_is_better=True)
    def near(outputs: Tensor, _float: Tensor, labels: Tensor) -> Tensor:
        return (outputs - labels).abs().amax(dim=1) < 0.5

    own = Custom(function=near)
    assert (own.name, own.unit, own.higher_is_better, own.kind) == ("near", "%", True, "mean")
    statistics = own.statistics(Batch(boxes, None, None, labels))
    assert statistics.tolist() == [[float(max(box) < 0.5)] for box in boxes.tolist()]
    assert statistics.dtype == torch.float64

    @metric(name="spread", unit="", higher_is_better=True)
    def wrong(outputs: Tensor, _float: Tensor, _labels: Tensor) -> Tensor:
        return outputs.std()

    with pytest.raises(InputError, match=r"spread returned \(\) for 200 samples; a number for each is needed"):
        Custom(function=wrong).check(LOGIT_BATCH, 0)


def test_ones_own_of_a_named_output_needs_no_float_network() -> None:
    @metric(name="double", unit="", higher_is_better=True)
    def double(outputs: Tensor, original: Tensor | None, _labels: Tensor | None) -> Tensor:
        assert original is None
        return 2 * outputs[:, 0]

    batch = Batch({"a": LOGITS, "b": FLOAT}, None, None, None)
    assert Custom("b", function=double).statistics(batch)[:, 0].tolist() == (2 * FLOAT[:, 0]).tolist()


def test_ones_own_over_all_samples() -> None:
    """It is given outputs, the float network's and labels, once, and the arguments that go with it."""

    @metric(name="farthest", unit="px", higher_is_better=False, mean=False)
    def farthest(outputs: Tensor, original: Tensor, labels: Tensor, *, power: int) -> Tensor:
        return (outputs - original).abs().max() ** power + labels.sum()

    outputs, original, labels = (torch.rand(5, generator=GENERATOR) for _ in range(3))
    own = Custom(function=farthest, kwargs={"power": 2})
    assert own.kind == "other"
    wanted = float((outputs - original).abs().max() ** 2 + labels.sum())
    assert own.over_all(Batch(outputs, original, None, labels)) == pytest.approx(wanted)
    named = Custom("b", function=farthest, kwargs={"power": 2})
    batch = Batch({"a": labels, "b": outputs}, {"a": labels, "b": original}, None, labels)
    assert named.over_all(batch) == pytest.approx(wanted)


def test_ones_own_is_imported() -> None:
    assert custom(factory="own_package.metrics:box_error") == Custom(function=box_error)
    made = custom(factory="own_package.metrics:box_error", kwargs={"a": 1}, output="boxes")
    assert (made.kwargs, made.output) == ({"a": 1}, "boxes")
    with pytest.raises(InputError, match=r"metric.factory=math:sqrt: it does not say what it measures; allowed is a f"):
        custom(factory="math:sqrt")
    with pytest.raises(InputError, match=r"^metric\.factory=own_package.metrics:absent: cannot be imported"):
        custom(factory="own_package.metrics:absent")
