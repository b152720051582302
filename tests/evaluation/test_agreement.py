"""The comparison of engines sees what differs, where it began, and nothing that only follows from it."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch
from small_networks import captured, cifar_resnet20, images
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.data.base import ImageSet, data_set, decoded
from quant_sweep.engines import Int8, Simulate
from quant_sweep.engines.int8 import IntegerNetwork
from quant_sweep.evaluation import agreement as agreement_of_engines
from quant_sweep.evaluation.agreement import EngineAgreement, _same, compare_some_images, compare_with_simulation
from quant_sweep.graph import Fusion, QuantGraph
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs


@pytest.fixture(params=Fusion, scope="module")
def prepared(request: pytest.FixtureRequest, exact_int8: int) -> tuple[QuantGraph, dict[str, QParams], IntegerNetwork]:
    graph = captured(cifar_resnet20, request.param)
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


@pytest.mark.parametrize(("worth", "compared", "seen"), [(3.5, 3, 8), (9, 9, 9), (0.5, 1, 8), (1000, 32, 32)])
def test_the_larger_the_network_the_fewer_images_are_compared(
    prepared, monkeypatch: pytest.MonkeyPatch, worth: float, compared: int, seen: int
) -> None:
    graph, qparams, network = prepared
    pixels = torch.randint(0, 256, (40, 3, 16, 16), dtype=torch.uint8)
    split = ImageSet(pixels, torch.zeros(40, dtype=torch.int64))
    data = data_set("some", decoded(["a"], split, split), (0.5, 0.4, 0.3), (0.2, 0.3, 0.4))
    an_image = sum(codes.numel() for codes in network.codes(data.normalize(pixels[:1])).values())
    monkeypatch.setattr(agreement_of_engines, "_COMPARED_CODES", int(worth * an_image))
    found = compare_some_images(network, graph, qparams, data)
    assert (found.images, found.compared_codes) == (seen, compared * an_image)
    expected = compare_with_simulation(network, graph, qparams, data.normalize(pixels[:seen]), compared)
    assert (found.lsb, found.differing, found.same_class) == (expected.lsb, expected.differing, expected.same_class)


def test_a_tensor_that_is_wrong_is_found_and_those_behind_it_are_not_blamed(prepared) -> None:
    """The network is built on one grid and compared on another: what is written there differs, and only that."""
    graph, qparams, network = prepared
    name = graph.activations[3].name
    other = dataclasses.replace(qparams[name], scale=qparams[name].scale * torch.tensor(1.5))
    agreement = compare_with_simulation(network, graph, qparams | {name: other}, images(4, seed=1), 4)
    assert agreement.first_difference == name
    assert agreement.lsb[name] > 1
    assert agreement.differing > 0


class Altered:
    """The simulation's own codes, some of them moved by some LSB."""

    def __init__(self, network: IntegerNetwork, moved: Mapping[str, tuple[int, ...]]) -> None:
        self.network, self.moved = network, moved

    def codes(self, x: Tensor) -> dict[str, Tensor]:
        codes = dict(self.network.codes(x))
        for name, by in self.moved.items():
            codes[name] = codes[name].clone()
            flat = codes[name].view(-1)
            middle = (flat - 7).abs().argsort(stable=True)[: len(by)]  # moved in either direction they stay on the grid
            flat[middle] += torch.tensor(by, dtype=flat.dtype)
        return codes

    def __call__(self, x: Tensor) -> Tensor:
        return self.network(x)


@pytest.mark.parametrize("by", [(1,), (-1,), (3, -1), (-5, 2, 1), (1, 1, 1, 1)])
def test_numbers_are_those_of_the_codes_that_were_moved(prepared, by: tuple[int, ...]) -> None:
    """Of two tensors, by known amounts; the rest of them is what an independent comparison of the codes finds."""
    graph, qparams, network = prepared
    batch = images(4, seed=1)
    exact = compare_with_simulation(network, graph, qparams, batch, 4)
    last = graph.activations[-1].name
    given = compare_with_simulation(Altered(network, {last: by}), graph, qparams, batch, 4)
    numel = network.codes(batch)[last].numel()
    assert exact.lsb[last] == 0, "the moves are counted against codes that agree"
    assert given.lsb == exact.lsb | {last: max(map(abs, by))}
    assert given.largest_lsb == max(given.lsb.values())
    assert given.shares[last] == pytest.approx(len(by) / numel)
    assert given.compared_codes == exact.compared_codes
    differing = (given.differing - exact.differing) * given.compared_codes
    assert differing == pytest.approx(len(by))


@pytest.mark.parametrize(
    ("bits", "lsb", "share", "believed"),
    [
        *((4, 1, 0.01, True), (4, 1, 0.011, False), (4, 2, 0.0, False)),
        *((8, 1, 0.001, True), (8, 1, 0.0011, False)),
    ],
)
def test_what_rounding_explains(bits: int, lsb: int, share: float, believed: bool) -> None:
    found = EngineAgreement(4, 100.0, {"a": 0, "b": lsb}, {"a": 0.0, "b": share}, 1000, share / 2)
    said = found.disagreement({"a": QuantSpec(bits), "b": QuantSpec(bits)})
    assert (said is None) == believed
    assert believed or str(said).startswith("b differs from simulate")


def test_no_difference_has_no_first_tensor(prepared) -> None:
    graph, qparams, network = prepared
    agreement = compare_with_simulation(network, graph, qparams, images(4, seed=1), 4)
    equal = dataclasses.replace(agreement, lsb=dict.fromkeys(agreement.lsb, 0))
    assert equal.first_difference is None
    assert equal.largest_lsb == 0


def test_other_outputs_are_the_same_within_a_hundredth_of_each_image() -> None:
    """Images of very different size, each off by its own share; both of two tensors must be near."""
    simulated = (
        torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0)) * 10.0 ** torch.arange(4)[:, None, None]
    )
    first = simulated * (1 + torch.tensor([0.009, 0.011, 0.0, -0.009]))[:, None, None]
    second = simulated * (1 + torch.tensor([0.0, 0.0, 0.02, 0.0]))[:, None, None]
    assert _same(first, simulated).tolist() == [True, False, True, True]
    assert _same([first, second], [simulated, simulated]).tolist() == [True, False, False, True]
    assert _same(first[:, :1, 0], simulated[:, :1, 0]).tolist() == [True, False, True, True]  # a number, no classes
