"""`Auto` takes integer kernels where they are exact, and says why where it does not."""

from dataclasses import replace

import pytest
import torch
from small_networks import captured, images, tiny

from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines import Auto, Int8, Simulate, auto
from quant_sweep.engines.auto import Choice
from quant_sweep.graph import Fusion
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs

CPU = torch.device("cpu")


def chosen(weights: int, activations: int, device: torch.device = CPU) -> Choice:
    graph = captured(tiny, Fusion.conv_bn_relu)
    return Auto().choose(graph, assign_specs(graph, AFFINE, BitWidths(weights, activations, {})), device)


@pytest.mark.parametrize(("weights", "activations"), [(8, 8), (2, 8), (4, 3)])
def test_integer_kernels_where_they_compute_exactly(
    weights: int, activations: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(auto, "why_not_exact", lambda _code, _weight: None)
    choice = chosen(weights, activations)
    assert (choice.name, type(choice.engine)) == ("int8", Int8)
    assert "integer kernels" in choice.reason


@pytest.mark.parametrize(("weights", "activations", "tensor"), [(9, 8, "conv1.weight"), (8, 16, "input")])
def test_wide_grids_are_simulated(weights: int, activations: int, tensor: str) -> None:
    choice = chosen(weights, activations)
    assert (choice.name, type(choice.engine)) == ("simulate", Simulate)
    assert choice.reason == f"{tensor} has {max(weights, activations)} bits, allowed are 2 to 8"


def test_what_the_cpu_is_asked_about_is_the_largest_product_of_a_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    """A code from the lowest on, and the magnitude of a weight, whose lowest code may be one farther from 0."""
    asked: list[tuple[int, int]] = []
    monkeypatch.setattr(auto, "why_not_exact", lambda code, weight: asked.append((code, weight)))
    graph = captured(tiny, Fusion.conv_bn_relu)
    for scheme in (AFFINE, replace(AFFINE, weight_narrow_range=False)):
        Auto().choose(graph, assign_specs(graph, scheme, BitWidths(4, 3, {"input": 5})), CPU)
    few = BitWidths(8, 3, {"input": 5, "conv1.weight": 2})  # 31 * 1 is less than 7 * 127
    Auto().choose(graph, assign_specs(graph, AFFINE, few), CPU)
    assert asked == [(31, 7), (31, 8), (7, 127)]


def test_a_gpu_simulates() -> None:
    choice = chosen(8, 8, torch.device("cuda"))
    assert (choice.name, choice.reason) == ("simulate", "int8 computes on the CPU, not on cuda")


def test_a_cpu_that_saturates_simulates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auto, "why_not_exact", lambda _code, _weight: "this CPU has no VNNI")
    assert (chosen(8, 8).name, chosen(8, 8).reason) == ("simulate", "this CPU has no VNNI")


def test_the_chosen_engine_builds() -> None:
    graph, batch = captured(tiny, Fusion.none), images(2)
    specs = assign_specs(graph, AFFINE, BitWidths(8, 8, {}))
    qparams = choose_qparams(calibrate(graph, [batch]), specs, MinMax(), MinMax())
    network = Auto().choose(graph, specs, CPU).engine.build(graph, qparams)
    assert bool(network(batch).isfinite().all())
