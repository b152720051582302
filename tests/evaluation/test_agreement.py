"""The comparison of engines sees what differs, where it began, and nothing that only follows from it."""

import dataclasses
import math
from collections.abc import Mapping

import pytest
import torch
from small_networks import captured, cifar_resnet20, images
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.data.base import ImageSet, data_set, decoded
from quant_sweep.engines import Engine, Int8, Integer, Simulate
from quant_sweep.engines.int8 import IntegerNetwork
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.evaluation import agreement as agreement_of_engines
from quant_sweep.evaluation.agreement import EngineAgreement, _same, compare_some_images, compare_with_simulation
from quant_sweep.graph import Fusion, QuantGraph
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs


def on_grids(widths: BitWidths, fusion: Fusion = Fusion.conv_bn_relu) -> tuple[QuantGraph, dict[str, QParams]]:
    graph = captured(cifar_resnet20, fusion)
    specs = assign_specs(graph, AFFINE, widths)
    return graph, choose_qparams(calibrate(graph, [images(8)]), specs, MinMax(), MinMax())


@pytest.fixture(params=Fusion, scope="module")
def prepared(request: pytest.FixtureRequest, exact_int8: int) -> tuple[QuantGraph, dict[str, QParams], IntegerNetwork]:
    graph, qparams = on_grids(BitWidths(min(4, exact_int8), 4, {}), request.param)
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
    ("rounds", "from_tie", "believed"),
    [
        *((0.0, 0.0, True), (0.0, 2.0**-10, True), (0.0, 0.001, False), (0.0, 1.0, False), (0.0, math.nan, False)),
        *((0.01, 0.0109, True), (0.01, 0.011, False)),
    ],
)
def test_what_rounding_explains(rounds: float, from_tie: float, believed: bool) -> None:
    found = EngineAgreement(4, 100.0, {"a": 0, "b": 1}, {"a": 0.0, "b": 0.01}, {"a": 0.0, "b": from_tie}, 1000, 0.005)
    said = found.disagreement(rounds)
    assert (said is None) == believed
    assert believed or str(said).startswith("b differs from simulate in 1 % of its codes, by ")


def test_what_is_said_of_an_engine_that_parts() -> None:
    found = EngineAgreement(4, 50.0, {"a": 7}, {"a": 1.0}, {"a": 6.125}, 1000, 1.0)
    words = "a differs from simulate in 100 % of its codes, by 6.62 steps, where rounding explains 0.501"
    assert found.disagreement(0.0) == words


@pytest.mark.parametrize("engine", [Int8, Integer])
@pytest.mark.parametrize("bits", [8, 5, 2])
@pytest.mark.parametrize("seed", range(3))
def test_an_engine_that_computes_the_same_grids_is_believed(
    engine: type[Engine], bits: int, seed: int, exact_int8: int
) -> None:
    """With few images and a narrow layer the share of codes that differ is anything; their distance to a tie is not."""
    graph, qparams = on_grids(BitWidths(min(bits, exact_int8), bits, {}))
    network = engine().build(graph, qparams)
    assert isinstance(network, NetworkOfCodes)
    agreement = compare_with_simulation(network, graph, qparams, images(1 + 5 * seed, seed=1 + seed), 1 + seed)
    assert agreement.disagreement(network.rounds) is None


def bias_off(graph: QuantGraph, qparams: dict[str, QParams]) -> tuple[QuantGraph, dict[str, QParams]]:
    """By a hundredth of a step of what the layer is rounded to; by a tenth at 2 bits, where sums of ternary weights
    take few values, which may all lie farther from a tie."""
    name, grid = "layer1.0.conv1.bias", qparams["layer1.0.relu1.output"]
    bias = graph.graph.constants[name] + (0.1 if grid.spec.bits == 2 else 0.01) * grid.scale
    constants = {**graph.graph.constants, name: bias}
    return dataclasses.replace(graph, graph=dataclasses.replace(graph.graph, constants=constants)), qparams


def channel_off(graph: QuantGraph, qparams: dict[str, QParams]) -> tuple[QuantGraph, dict[str, QParams]]:
    """The weights of one channel, by a fiftieth."""
    name = "layer1.0.conv1.weight"
    factor = torch.ones_like(qparams[name].scale)
    factor[0] = 1.02
    return graph, qparams | {name: dataclasses.replace(qparams[name], scale=qparams[name].scale * factor)}


@pytest.mark.parametrize("engine", [Int8, Integer])
@pytest.mark.parametrize("bits", [8, 5, 2])
@pytest.mark.parametrize("mistake", [bias_off, channel_off])
def test_a_network_with_a_mistake_is_not_believed(engine: type[Engine], bits: int, mistake, exact_int8: int) -> None:
    graph, qparams = on_grids(BitWidths(min(bits, exact_int8), bits, {}))
    network = engine().build(*mistake(graph, qparams))
    assert isinstance(network, NetworkOfCodes)
    said = compare_with_simulation(network, graph, qparams, images(4, seed=1), 4).disagreement(network.rounds)
    assert said is not None
    assert said.startswith("layer1.0.relu1.output differs from simulate")


@pytest.mark.parametrize("by", [-3, -1, 1, 3])
def test_a_single_wrong_code_is_not_believed(prepared, by: int) -> None:
    graph, qparams, network = prepared
    last = graph.activations[-1].name
    found = compare_with_simulation(Altered(network, {last: (by,)}), graph, qparams, images(4, seed=1), 4)
    assert abs(by) - 1 < found.from_tie[last] < abs(by)
    assert str(found.disagreement(network.rounds)).startswith(f"{last} differs from simulate")


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
    assert _same(first[:, 0, 0], simulated[:, 0, 0]).tolist() == [True, False, True, True]


def test_one_tensor_of_classes_is_the_same_where_the_class_is() -> None:
    """However far the numbers are apart; of more tensors the numbers count, and so they do of a single number."""
    simulated = torch.tensor([[1.0, 2.0], [2.0, 1.0], [0.0, 5.0]])
    others = torch.tensor([[1.0, 9.0], [1.0, 1.001], [0.004, 5.004]])
    assert _same(others, simulated).tolist() == [True, False, True]
    assert _same([others, simulated], [simulated, simulated]).tolist() == [False, False, True]


def test_outputs_of_nothing_but_zeros_are_the_same() -> None:
    simulated = torch.zeros(2, 3, 5)
    assert _same(simulated, simulated).tolist() == [True, True]
    assert _same(simulated + torch.tensor([0.0, 1e-9])[:, None, None], simulated).tolist() == [True, False]
