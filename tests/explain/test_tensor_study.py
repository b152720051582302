"""Errors and choices against the values themselves."""

import inspect
import math
from dataclasses import replace

import pytest
import torch
from explained import subject_of
from small_networks import images

from quant_sweep import observers
from quant_sweep.arithmetic.affine import fake_quantize, qparams_from_range, sqnr_db_of_values
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.calibration.one_pass import choose_weight_qparams
from quant_sweep.explain import Explanation, Subject, explain
from quant_sweep.explain.tensor_errors import Activation, Values, Weight
from quant_sweep.explain.tensor_study import TensorStudy, all_observers
from quant_sweep.graph import QuantGraph
from quant_sweep.histograms.summary import summarize_channels
from quant_sweep.observers import FakeHist

SPEC = QuantSpec(4, signed=True, symmetric=True, narrow_range=True)


@pytest.fixture(scope="module")
def made() -> Subject:
    return subject_of("tiny", bits=4)


@pytest.fixture(scope="module")
def found(made: Subject) -> Explanation:
    return explain(made, "conv2", [images(2)], {})


def values(kind: str) -> tuple[torch.Tensor, Values]:
    x = torch.randn(20_000, generator=torch.Generator().manual_seed(0))
    return x, Weight(x, None) if kind == "weight" else Activation(summarize_channels(x, None))


@pytest.mark.parametrize("kind", ["weight", "activation"])
@pytest.mark.parametrize("ends", [0.5, 2.0, 100.0])
def test_rounding_and_clipping_add_up_to_the_error(kind: str, ends: float) -> None:
    x, tensor = values(kind)
    grid = qparams_from_range(torch.tensor(-ends), torch.tensor(ends), SPEC)
    rounding, clipping = tensor.errors(grid)
    wrong = (x - fake_quantize(x, grid)).double() ** 2
    power, outside = (x.double() ** 2).sum(), (x < grid.lo) | (x > grid.hi)
    tolerance = 1e-9 if kind == "weight" else 2e-2
    assert rounding == pytest.approx(float(wrong[~outside].sum() / power), rel=tolerance, abs=1e-6)
    assert clipping == pytest.approx(float(wrong[outside].sum() / power), rel=tolerance, abs=1e-6)


def test_every_observer_is_asked() -> None:
    classes = [getattr(observers, name) for name in observers.__all__]
    used = FakeHist(percentile=90.0)
    asked = all_observers(used)
    assert {type(observer) for observer in asked.values()} == {c for c in classes if not inspect.isabstract(c)}
    assert asked["fake_hist"] is used


def test_the_choice_of_the_run_is_its_grid(made: Subject, found: Explanation) -> None:
    assert list(found.activations) == ["input", "residual", "output"]
    for study in found.activations.values():
        choice, grid = study.choices[study.used], made.qparams[study.name]
        assert (choice.lo, choice.hi) == (float(grid.lo), float(grid.hi))
    grid, weight = made.qparams["conv2.weight"], made.graph.graph.constants["conv2.weight"]
    assert found.weight.choices["minmax"].hi == float(grid.hi.max())
    noise, signal = ((weight - fake_quantize(weight, grid)).double() ** 2).sum(), (weight.double() ** 2).sum()
    expected = float(10 * torch.log10(signal / noise))
    assert found.weight.choices["minmax"].sqnr_db[4] == pytest.approx(expected)
    assert found.channels.per_channel[4] == pytest.approx(expected)


def test_per_tensor_is_one_scale(made: Subject, found: Explanation) -> None:
    weight = made.graph.graph.constants["conv2.weight"]
    (grid,) = choose_weight_qparams(subject_of_one(made), {"conv2.weight": SPEC}, made.weight_observer).values()
    assert found.channels.per_tensor[4] == pytest.approx(float(sqnr_db_of_values(weight, grid)))
    assert found.channels.per_tensor[4] < found.channels.per_channel[4]


def subject_of_one(made: Subject) -> QuantGraph:
    return replace(made.graph, weights=tuple(q for q in made.graph.weights if q.name == "conv2.weight"))


def studies(found: Explanation) -> list[TensorStudy]:
    return [found.weight, *found.activations.values()]


def test_the_trade_off(found: Explanation) -> None:
    for study in studies(found):
        curve = study.trade_off
        assert curve.kept[0] == 1.0
        assert curve.kept[-1] == 0.05
        assert list(curve.kept) == sorted(curve.kept, reverse=True)
        assert curve.clipping[0] == pytest.approx(0.0, abs=1e-4)
        assert all(a <= b * (1 + 1e-9) + 1e-12 for a, b in zip(curve.clipping, curve.clipping[1:], strict=False))
        assert curve.rounding[-1] < curve.rounding[0]
        least = min(r + c for r, c in zip(curve.rounding, curve.clipping, strict=True))
        assert study.choices["mse"].error <= least * 1.05, "it searches for just that"


def test_more_bits_less_error(found: Explanation) -> None:
    assert list(found.weight.choices["mse"].sqnr_db) == [4]
    by_width = found.channels.per_channel
    assert list(by_width.values()) == sorted(by_width.values())
    for study in found.activations.values():
        by_width = study.choices["mse"].sqnr_db
        assert sorted(by_width) == list(range(2, 9))
        assert list(by_width.values()) == sorted(by_width.values())


def test_histogram_counts_every_value(found: Explanation) -> None:
    for study in studies(found):
        assert sum(study.counts) == study.count
        assert len(study.edges) == len(study.counts) + 1 <= 257
        assert study.edges[0] <= study.lo <= study.hi <= study.edges[-1]


def test_a_tensor_of_zeros_has_no_errors() -> None:
    rounding, clipping = Weight(torch.zeros(8), None).errors(
        qparams_from_range(torch.tensor(0.0), torch.tensor(0.0), SPEC)
    )
    assert math.isnan(rounding)
    assert math.isnan(clipping)
