"""Every metric is what a plain loop over samples gives; its error is that of resampled test sets."""

from __future__ import annotations

import math
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


def miou(rows: list[int]) -> float:
    ratios = []
    for category in range(CLASSES):
        both = union = 0
        for i in rows:
            for y, said in zip(MASKS[i].flatten().tolist(), DENSE[i].argmax(0).flatten().tolist(), strict=True):
                if y < CLASSES:
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
}


@pytest.mark.parametrize("name", TWINS)
def test_a_plain_loop(name: str) -> None:
    measured, batch, twin = TWINS[name]
    statistics = measured.statistics(batch)
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


def test_no_error_of_one_sample_or_of_no_noise() -> None:
    assert standard_error(Top1(), Top1().statistics(Batch(LOGITS[:1], None, None, LABELS[:1]))) is None
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


@pytest.mark.parametrize(
    ("measured", "batch", "words"),
    [
        (Top1(), Batch(DENSE, None, None, LABELS), r"returns a tensor \(n, 4, 3, 3\), but the images have 4 classes"),
        (TopK(k=4), LOGIT_BATCH, "metric.k=4: allowed are whole numbers from 1 to 3"),
        (Agreement(), Batch(LOGITS[:, :1], None, None, None), "tells no classes apart"),
        (MeanIoU(), Batch(DENSE, None, None, LABELS), r"labels are \(n\) of 4 classes"),
        (SquaredError(), LOGIT_BATCH, r"metric.target=null: the labels are \(\), and the network returns \(4,\)"),
        (SquaredError(), Batch(LOGITS, None, None, DENSE[..., 0]), r"the labels are \(4, 3\), and the network returns"),
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


def test_ones_own() -> None:
    boxes, labels = torch.rand(5, 4, generator=GENERATOR), torch.zeros(5, 4)
    own = Custom(function=box_error)
    assert (own.name, own.unit, own.higher_is_better, own.kind) == ("box_error", "px", False, "mean")
    statistics = own.statistics(Batch({"boxes": boxes}, None, None, labels))
    assert value_of(own, statistics) == pytest.approx(boxes.mean().item())

    @metric(name="spread", unit="", higher_is_better=True)
    def wrong(outputs: Tensor, _float: Tensor, _labels: Tensor) -> Tensor:
        return outputs.std()

    with pytest.raises(InputError, match=r"spread returned \(\) for 200 samples; a number for each is needed"):
        Custom(function=wrong).check(LOGIT_BATCH, 0)


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
