"""The comparison of engines sees what differs, where it began, and nothing that only follows from it."""

import dataclasses

import pytest
import torch
from small_networks import cifar_resnet20, images

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines import Int8, Simulate
from quant_sweep.engines.int8 import IntegerNetwork
from quant_sweep.evaluation.agreement import compare_with_simulation
from quant_sweep.graph import Fusion, QuantGraph, capture
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs


@pytest.fixture(params=Fusion, scope="module")
def prepared(request: pytest.FixtureRequest, exact_int8: int) -> tuple[QuantGraph, dict[str, QParams], IntegerNetwork]:
    graph = capture(cifar_resnet20(), images(8), request.param)
    specs = assign_specs(graph, AFFINE, BitWidths(min(4, exact_int8), 4, {}))
    qparams = choose_qparams(calibrate(graph, [images(8)]), specs, MinMax(), MinMax())
    return graph, qparams, Int8().build(graph, qparams)


def test_the_engines_agree(prepared) -> None:
    graph, qparams, network = prepared
    batch = images(8, seed=1)
    agreement = compare_with_simulation(network, graph, qparams, batch, codes_of=5)
    assert list(agreement.lsb) == [q.name for q in graph.activations]
    assert agreement.largest_lsb <= 1
    assert agreement.differing < 1e-4
    assert agreement.images == 8
    assert agreement.compared_codes == sum(codes.numel() for codes in network.codes(batch[:5]).values())
    simulated = Simulate().build(graph, qparams)(batch).argmax(dim=1)
    same = (network(batch).argmax(dim=1) == simulated).sum().item()
    assert agreement.same_class == pytest.approx(100 * same / 8)


def test_a_tensor_that_is_wrong_is_found_and_those_behind_it_are_not_blamed(prepared) -> None:
    """The network is built on one grid and compared on another: what is written there differs, and only that."""
    graph, qparams, network = prepared
    name = graph.activations[3].name
    other = dataclasses.replace(qparams[name], scale=qparams[name].scale * torch.tensor(1.5))
    agreement = compare_with_simulation(network, graph, qparams | {name: other}, images(4, seed=1), 4)
    assert agreement.first_difference == name
    assert agreement.lsb[name] > 1
    assert agreement.differing > 0


def test_no_difference_has_no_first_tensor(prepared) -> None:
    graph, qparams, network = prepared
    agreement = compare_with_simulation(network, graph, qparams, images(4, seed=1), 4)
    equal = dataclasses.replace(agreement, lsb=dict.fromkeys(agreement.lsb, 0))
    assert equal.first_difference is None
    assert equal.largest_lsb == 0
