"""The search for widths: its measurements against networks built anew, and that it finds what helps."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from layer_networks import several
from small_networks import images, tiny
from torch import Tensor, nn

from quant_sweep.calibration.one_pass import Calibration, calibrate
from quant_sweep.engines import Simulate
from quant_sweep.errors import InputError
from quant_sweep.evaluation import search_widths
from quant_sweep.evaluation.allocate import allocate, in_batches, judging_batches, width_choices
from quant_sweep.evaluation.budget import Budget, parse_budget
from quant_sweep.evaluation.search_widths import Search, next_factor
from quant_sweep.evaluation.tensor_damages import Damages, Widths, damage_and_changes, tensor_damages
from quant_sweep.graph import Fusion, Network, QuantGraph, capture
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.allocation import least_damage, network_size
from quant_sweep.quantization.quantize import quantize, recovered
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, Width, assign_specs
from quant_sweep.recovery import Bias, Equalize, OnGrids, Reconstruct
from quant_sweep.recovery.divergence import divergence
from quant_sweep.recovery.recover import damages


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    return calibrate(capture(tiny(), images(2), Fusion.conv_bn_relu), [images(64)])


def at(calibration: Calibration, widths: Mapping[str, object], recovery: tuple[Bias, ...] = ()) -> OnGrids:
    specs = assign_specs(calibration.graph, AFFINE, BitWidths(8, 8, widths))
    return recovered(calibration, specs, MSE(), MinMax(), AFFINE, recovery)[0]


def test_the_damage_of_one_tensor_is_that_of_a_network_with_its_width(calibration: Calibration) -> None:
    graph, batches = calibration.graph, [images(8, seed=4), images(3, seed=5)]
    states = {bits: at(calibration, dict.fromkeys(graph.names, bits)) for bits in (2, 4)}
    choices = dict.fromkeys(graph.names, (2, 4, "float"))
    found = tensor_damages(graph, states, states, choices, batches)
    assert list(found) == list(graph.names)
    for name in ("input", "relu.output", "conv2.weight", "linear.weight"):
        for width in (2, 4):
            anew = at(calibration, {**dict.fromkeys(graph.names, "float"), name: width})
            assert found[name][width] == pytest.approx(damages(graph, [anew], batches)[0], rel=1e-3, abs=1e-6)
        assert found[name]["float"] == 0.0


@pytest.mark.parametrize("in_float", [(), ("relu.output", "conv2.weight")])
def test_a_whole_network_is_measured_as_it_is_simulated(calibration: Calibration, in_float: tuple[str, ...]) -> None:
    graph, batches = calibration.graph, [images(60, seed=4), images(30, seed=5)]
    state = at(calibration, {**dict.fromkeys(graph.names, 3), **dict.fromkeys(in_float, "float")})
    found, changed = damage_and_changes(graph, state, batches)
    assert found == pytest.approx(damages(graph, [state], batches)[0], rel=1e-4)
    networks = (Network(graph.graph), Simulate().build(state.graph, state.qparams))
    classes = [torch.cat([network(batch).argmax(1) for batch in batches]) for network in networks]
    assert changed == pytest.approx(100 * int((classes[0] != classes[1]).sum()) / 90)
    assert changed > 0


def test_a_recovered_weight_comes_with_its_bias(calibration: Calibration) -> None:
    """From the network whose weights have the width; the grid of an activation from the other."""
    graph, batches = calibration.graph, [images(8, seed=4)]
    weights = {2: at(calibration, dict.fromkeys(graph.names, 2), (Bias(),))}
    activations = {2: at(calibration, dict.fromkeys(graph.names, 3))}
    found = tensor_damages(graph, weights, activations, {"conv1.weight": (2,), "relu.output": (2,)}, batches)
    other = weights[2]
    theirs = {name: other.graph.graph.constants[name] for name in graph.graph.node["conv1.output"].inputs[1:]}
    whole = replace(graph.graph, constants={**graph.graph.constants, **theirs})
    by_hand = OnGrids(replace(graph, graph=whole), {"conv1.weight": other.qparams["conv1.weight"]})
    assert found["conv1.weight"][2] == pytest.approx(damages(graph, [by_hand], batches)[0], rel=1e-3)
    by_hand = OnGrids(graph, {"relu.output": activations[2].qparams["relu.output"]})
    assert found["relu.output"][2] == pytest.approx(damages(graph, [by_hand], batches)[0], rel=1e-3)


class Bare(nn.Module):
    """No layer has a bias, and no BatchNorm gives it one."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 5, 3, bias=False), nn.Linear(14, 4, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.conv(x))).mean((1, 2))


def test_a_recovered_weight_comes_with_the_bias_that_its_layer_had_not() -> None:
    torch.manual_seed(0)
    calibration = calibrate(capture(Bare().eval(), images(2), Fusion.conv_bn_relu), [images(16)])
    graph, batches = calibration.graph, [images(8, seed=4)]
    state = at(calibration, dict.fromkeys(graph.names, 2), (Bias(),))
    for weight in ("conv.weight", "linear.weight"):
        found = tensor_damages(graph, {2: state}, {}, {weight: (2,)}, batches)
        (layer,) = (node.name for node in graph.graph.nodes if weight in node.inputs)
        theirs = state.graph.graph.node[layer]
        (bias,) = theirs.inputs[2:]
        nodes = tuple(theirs if node.name == layer else node for node in graph.graph.nodes)
        constants = {**graph.graph.constants, bias: state.graph.graph.constants[bias]}
        by_hand = OnGrids(
            replace(graph, graph=replace(graph.graph, nodes=nodes, constants=constants)),
            {weight: state.qparams[weight]},
        )
        assert found[weight][2] == pytest.approx(damages(graph, [by_hand], batches)[0], rel=1e-3)


def other_constants(graph: QuantGraph, by: float, names: Collection[str]) -> QuantGraph:
    """The same network, some constants of which are larger."""
    constants = {name: value + by if name in names else value for name, value in graph.graph.constants.items()}
    return replace(graph, graph=replace(graph.graph, constants=constants))


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 3, 1), nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(torch.relu(self.conv(torch.relu(self.conv(x)))).mean((2, 3)))


def test_a_layer_that_is_called_twice_keeps_its_bias() -> None:
    """A recovery gives each call one of its own, of which neither is right for the other."""
    torch.manual_seed(0)
    calibration = calibrate(capture(Twice().eval(), images(2), Fusion.conv_bn_relu), [images(16)])
    graph, batches = calibration.graph, [images(8, seed=4)]
    state = at(calibration, dict.fromkeys(graph.names, 3))
    moved = other_constants(graph, 1.0, ["conv.bias", "linear.bias"])
    weights = {3: OnGrids(moved, state.qparams)}
    found = tensor_damages(graph, weights, {3: state}, {"conv.weight": (3,), "linear.weight": (3,)}, batches)
    by_hand = [
        OnGrids(graph, {"conv.weight": state.qparams["conv.weight"]}),
        OnGrids(other_constants(graph, 1.0, ["linear.bias"]), {"linear.weight": state.qparams["linear.weight"]}),
    ]
    twice, once = damages(graph, by_hand, batches)
    assert found == {
        "conv.weight": {3: pytest.approx(twice, rel=1e-3)},
        "linear.weight": {3: pytest.approx(once, rel=1e-3)},
    }


def test_a_layer_that_lost_its_bias_is_measured_without(calibration: Calibration) -> None:
    graph, batches = calibration.graph, [images(8, seed=4)]
    state = at(calibration, dict.fromkeys(graph.names, 4))
    nodes = tuple(
        replace(node, inputs=node.inputs[:2]) if node.name == "conv1.output" else node for node in graph.graph.nodes
    )
    without = OnGrids(replace(graph, graph=replace(graph.graph, nodes=nodes)), state.qparams)
    found = tensor_damages(graph, {4: without}, {4: state}, {"conv1.weight": (4,)}, batches)
    by_hand = OnGrids(without.graph, {"conv1.weight": state.qparams["conv1.weight"]})
    assert found["conv1.weight"][4] == pytest.approx(damages(graph, [by_hand], batches)[0], rel=1e-3)


def test_the_choice_keeps_to_the_budget_and_is_better_than_uniform(calibration: Calibration) -> None:
    graph, size = calibration.graph, network_size(calibration.graph)
    found = allocate(calibration, budget=Budget(like_uniform=4), observer=MSE(), widths=(2, 3, 4, 6, 8), steps=2)
    uniform = next(one for one in found.candidates if one.name == "uniform 4")
    assert found.chosen.damage < uniform.damage
    assert found.images == 8
    caps = Budget(like_uniform=4).caps(size, graph)
    assert all(size.costs(found.chosen.widths)[name] <= most * (1 + 1e-6) for name, most in caps.items())
    assert len({one.name for one in found.candidates}) == len(found.candidates)
    made = quantize(calibration, bits=8, observer=MSE(), overrides=found.chosen.widths, engine=Simulate())
    again, _ = damage_and_changes(graph, at(calibration, found.chosen.widths), judging_batches(calibration.batches))
    assert again == pytest.approx(found.chosen.damage)
    assert {name: grid.spec.bits for name, grid in made.qparams.items()} == found.chosen.widths


@pytest.mark.parametrize(
    "settings",
    [
        {"recovery": (Bias(),)},
        {"scheme": Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)},
        {"weight_observer": MSE(), "observer": MinMax()},
    ],
    ids=["recovery", "scheme", "observers"],
)
def test_networks_are_measured_as_quantize_makes_them(calibration: Calibration, settings: dict[str, Any]) -> None:
    graph, given = calibration.graph, {"observer": MSE(), **settings}
    found = allocate(calibration, budget=Budget(mean_bits=4), widths=(2, 4, 8), steps=2, **given)
    batch = torch.cat(judging_batches(calibration.batches))
    wanted = Network(graph.graph)(batch)
    for one in found.candidates:
        made = quantize(calibration, bits=8, overrides=one.widths, engine=Simulate(), **given).network(batch)
        assert one.damage == pytest.approx(float(divergence(wanted.double(), made.double())), rel=1e-4)
        assert one.changed == pytest.approx(100 * (wanted.argmax(1) != made.argmax(1)).double().mean().item())


@pytest.mark.parametrize("tied", [False, True])
def test_tensors_around_a_relu_share_a_width_where_they_share_a_grid(tied: bool) -> None:
    calibration = calibrate(capture(tiny(), images(2), Fusion.bn), [images(32)])
    scheme = replace(AFFINE, same_grid_around_relu=tied)
    found = allocate(
        calibration, budget=Budget(mean_bits=4), observer=MSE(), scheme=scheme, widths=(2, 3, 4, 5, 6, 8), steps=1
    )
    assert found.candidates[-1].name == "step 1"
    widths = found.candidates[-1].widths
    assert (widths["conv1.output"] == widths["relu.output"]) is tied


def test_the_search_goes_on_beside_a_uniform_assignment(calibration: Calibration) -> None:
    """Where 8 bits are allowed everywhere, no assignment with 2 bits somewhere is better."""
    found = allocate(calibration, budget=Budget(like_uniform=8), observer=MSE(), widths=(2, 8), steps=2)
    assert [one.name for one in found.candidates] == ["uniform 2", "uniform 8", "step 1", "step 2"]
    assert found.chosen.name == "uniform 8"
    assert found.chosen.damage == min(one.damage for one in found.candidates)


def test_weights_are_measured_with_activations_in_float(calibration: Calibration) -> None:
    """A recovery that sees quantized activations would spend the weights on what those lost."""
    graph, made = calibration.graph, list[Widths]()
    weights = {q.name for q in graph.weights}

    def make(widths: Widths) -> OnGrids:
        made.append(widths)
        return at(calibration, widths)

    def damages(only_weights: Mapping[Width, OnGrids], uniform: Mapping[Width, OnGrids]) -> Damages:
        for width in (2, 4):
            assert {name: grid.spec.bits for name, grid in only_weights[width].qparams.items()} == dict.fromkeys(
                weights, width
            )
            assert set(uniform[width].qparams) == set(graph.names)
        return {name: {2: 1.0, 4: 0.5} for name in graph.names}

    groups = [(name,) for name in graph.names]
    choices = dict.fromkeys(graph.names, (2, 4))
    search = Search(graph, network_size(graph), groups, choices, [images(8)], make, damages)
    search.run(Budget(like_uniform=3), 1)
    assert [set(widths.values()) for widths in made[:4]] == [{2}, {4}, {2, "float"}, {4, "float"}]


def test_each_step_counts_weights_by_another_factor(calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []

    def recorded(damages: Damages, *given: Any, **named: Any) -> dict[str, Any] | None:
        asked.append({"damages": damages, **named, "found": least_damage(damages, *given, **named)})
        return asked[-1]["found"]

    monkeypatch.setattr(search_widths, "least_damage", recorded)
    found = allocate(calibration, budget=Budget(like_uniform=4), observer=MSE(), widths=(2, 4, 8), steps=3)
    steps = found.candidates[3:]
    assert [one.name for one in steps] == ["step 1", "step 2", "step 3"]
    assert found.chosen == min(found.candidates[:2] + steps, key=lambda one: one.damage)
    graph, weights, measured = calibration.graph, {q.name for q in calibration.graph.weights}, dict[float, float]()
    states = {bits: at(calibration, dict.fromkeys(graph.names, bits)) for bits in (2, 4, 8)}
    choices = dict.fromkeys(graph.names, (2, 4, 8))
    alone = tensor_damages(graph, states, states, choices, judging_batches(calibration.batches))
    for question, step in zip(asked, steps, strict=True):
        factor = next_factor(measured)
        measured[factor] = step.damage
        for name, by_width in question["damages"].items():
            times = factor if name in weights else 1.0
            assert by_width == {width: pytest.approx(times * alone[name][width]) for width in (2, 4, 8)}
        assert question["tried"] == [one.widths for one in (*found.candidates[:2], *steps[: len(measured) - 1])]
        assert question["found"] == step.widths


def test_the_next_factor_is_beside_the_best() -> None:
    assert next_factor({}) == 1.0
    assert next_factor({1.0: 3.0}) == 0.5
    assert next_factor({1.0: 3.0, 0.5: 4.0}) == 2.0
    assert next_factor({1.0: 3.0, 0.5: 2.0}) == 0.25
    assert next_factor({1.0: 3.0, 0.5: 4.0, 2.0: 1.0}) == 4.0
    assert next_factor({1.0: 3.0, 0.5: 4.0, 2.0: 5.0}) == pytest.approx(2.0**-0.5)
    assert next_factor({1.0: 3.0, 0.5: 4.0, 2.0: 5.0, 2.0**-0.5: 6.0}) == pytest.approx(2.0**0.5)


def test_the_least_cost_for_so_many_changes(calibration: Calibration) -> None:
    found = allocate(calibration, budget=Budget(max_drop=13), observer=MSE(), widths=(2, 4, 8), steps=2)
    assert found.chosen.changed <= 13
    enough = [one for one in found.candidates if one.changed <= 13]
    assert found.chosen.costs["bit_operations"] == min(one.costs["bit_operations"] for one in enough)


@pytest.mark.parametrize(
    ("widths", "most"),
    [((2, 4, 8), 15.0), ((2, 4, 8), 25.0), ((2, 4, 8), 180 / 7), ((2, 4, 8), 40.0), ((2, 3, 4), 45.0), ((6, 8), 16.0)],
)
def test_the_least_cost_is_searched_by_halving(
    calibration: Calibration, monkeypatch: pytest.MonkeyPatch, widths: tuple[int, ...], most: float
) -> None:
    """Where the changes follow from the widths alone: a share of the cost of the best uniform network, the geometric
    mean of what was enough and what was not."""
    graph, choices = calibration.graph, dict.fromkeys(calibration.graph.names, widths)
    damages = {name: {bits: (9.0 + i) / bits for bits in widths} for i, name in enumerate(choices)}

    def changed(widths: Mapping[str, Any]) -> float:
        return 10.0 * sum(8 - bits for bits in widths.values()) / len(widths)

    def damages_of(weights: Mapping[Width, OnGrids], activations: Mapping[Width, OnGrids]) -> Damages:
        assert tuple(weights) == tuple(activations) == widths
        return damages

    monkeypatch.setattr(search_widths, "damage_and_changes", lambda _graph, state, _: (0.5, changed(state)))
    groups, size = [(name,) for name in choices], network_size(graph)
    judges = [images(8), images(3)]
    search = Search(graph, size, groups, choices, judges, lambda widths: cast(OnGrids, widths), damages_of)
    found = search.run(Budget(max_drop=most), steps=6)
    expected, low, high = [dict.fromkeys(choices, bits) for bits in widths], 0.25, 1.0
    best = next(uniform for uniform in expected if changed(uniform) <= most)
    uniform = size.costs(best)
    for _ in range(6):
        share = (low * high) ** 0.5
        caps = {name: share * uniform[name] for name in ("weight_bits", "bit_operations")}
        tried = least_damage(damages, groups, size, caps)
        if tried is None:
            low = share
            continue
        expected.append(tried)
        enough = changed(tried) <= most
        best, low, high = (tried, low, share) if enough else (best, share, high)
    assert [one.widths for one in found.candidates] == expected
    assert [one.changed for one in found.candidates] == [changed(widths) for widths in expected]
    assert found.chosen.widths == best
    assert best not in expected[: len(widths)]
    names = [*(f"uniform {bits}" for bits in widths), "step "]
    assert all(one.name.startswith(name) for one, name in zip(found.candidates, names, strict=False))
    assert found.images == 11


def test_so_many_changes_are_too_few_for_every_width(calibration: Calibration, monkeypatch: pytest.MonkeyPatch) -> None:
    """The width with the fewest is named, which need not be the widest."""
    graph, choices = calibration.graph, dict.fromkeys(calibration.graph.names, (2, 4, 8))
    changes = {2: 30.0, 4: 12.5, 8: 20.0}

    def measured(_graph: object, widths: Any, _judges: object) -> tuple[float, float]:
        return 0.5, changes[widths["input"]]

    monkeypatch.setattr(search_widths, "damage_and_changes", measured)
    size, groups = network_size(graph), [(name,) for name in choices]
    search = Search(
        graph, size, groups, choices, [images(8)], lambda widths: cast(OnGrids, widths), lambda *_: cast(Damages, {})
    )
    with pytest.raises(InputError, match=r"^budget.max_drop=12.4: uniform 4 bits changes 12 %"):
        search.run(Budget(max_drop=12.4), steps=1)


@pytest.mark.parametrize("shape", [(5,), (3, 6), (3, 4, 6), (3, 2, 4, 6)])
@pytest.mark.parametrize("count", [1, 16, 35])
def test_inputs_of_any_shape_are_judged_in_batches(shape: tuple[int, ...], count: int) -> None:
    inputs = torch.randn(count, *shape)
    batches = in_batches(inputs)
    assert torch.equal(torch.cat(batches), inputs)
    assert [len(batch) for batch in batches] == [min(16, count - first) for first in range(0, count, 16)]
    if len(shape) == 3:
        assert all(batch.is_contiguous(memory_format=torch.channels_last) for batch in batches)


def test_settled_widths_stay(calibration: Calibration) -> None:
    graph = calibration.graph
    choices = width_choices(graph, AFFINE, {"linear": "float", "input": 8, "conv1.weight": 2}, (2, 4, 8))
    assert (choices["linear.weight"], choices["input"], choices["conv1.weight"]) == (("float",), (8,), (2,))
    assert choices["conv2.weight"] == (2, 4, 8)
    settled = {"input": 8, "linear": "float"}
    found = allocate(
        calibration, budget=Budget(mean_bits=12), observer=MSE(), overrides=settled, widths=(2, 4), steps=1
    )
    assert (found.chosen.widths["input"], found.chosen.widths["linear.weight"]) == (8, "float")


def test_other_layers() -> None:
    calibration = calibrate(capture(several(), images(2), Fusion.none), [images(16)])
    budget = Budget(bitops=1.0, megabytes=0.01)
    found = allocate(calibration, budget=budget, observer=MSE(), recovery=[Bias()], widths=(3, 6), steps=1)
    assert set(found.chosen.widths) == set(calibration.graph.names)


@pytest.mark.parametrize("value", [0, -1, True, False, "3", math.nan, math.inf, 1e12, [4]])
@pytest.mark.parametrize("name", ["megabytes", "bitops", "mean_bits", "max_drop"])
def test_a_limit_is_a_finite_number_above_0(name: str, value: object) -> None:
    with pytest.raises(InputError, match=rf"^budget\.{name}={re.escape(repr(value))}: allowed are numbers above 0"):
        parse_budget({name: value})
    for number in (1e-9, 1, 9e11):
        assert parse_budget({name: number}) == Budget(**{name: number})


@pytest.mark.parametrize("bits", [2, 9, 16])
def test_like_uniform_takes_every_width(bits: int) -> None:
    assert parse_budget(f"like_uniform_{bits}") == Budget(like_uniform=bits)


def test_the_most_of_each_cost(calibration: Calibration) -> None:
    graph, size = calibration.graph, network_size(calibration.graph)
    numbers, weights = sum(t.numel() for t in graph.graph.constants.values()), sum(size.weights.values())
    assert Budget(bitops=2.5).caps(size, graph) == {"bit_operations": 2.5e9}
    mean = {"weight_bits": 3.5 * weights, "activation_bits": 3.5 * sum(size.activations.values())}
    assert Budget(mean_bits=3.5).caps(size, graph) == mean
    costs = size.costs(dict.fromkeys(graph.names, 5))
    assert Budget(like_uniform=5).caps(size, graph) == {k: costs[k] for k in ("weight_bits", "bit_operations")}
    both = Budget(megabytes=0.001, mean_bits=30, bitops=1).caps(size, graph)
    assert both["weight_bits"] == pytest.approx(0.001 * 8e6 - 32 * (numbers - weights))
    assert (both["activation_bits"], both["bit_operations"]) == (30 * sum(size.activations.values()), 1e9)


def test_megabytes_leave_something_for_the_weights(calibration: Calibration) -> None:
    graph, size = calibration.graph, network_size(calibration.graph)
    others = 6 + 6 + 4  # biases; 512 bits
    half_a_bit = Budget(megabytes=(32 * others + 0.5) / 8e6)
    assert half_a_bit.caps(size, graph)["weight_bits"] == pytest.approx(0.5)
    with pytest.raises(InputError, match=r"biases and the like alone take 6\.4e-05"):
        Budget(megabytes=32 * others / 8e6).caps(size, graph)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "budget: give budget.megabytes, "),
        ({"megabytes": -1}, r"budget.megabytes=-1: allowed are numbers above 0"),
        ({"bits": 3}, r"budget.bits: no such limit; allowed are megabytes, "),
        ({"max_drop": 1, "bitops": 2}, r"budget.max_drop: it asks for the least cost"),
        ("like_uniform_1", "budget=like_uniform_1: allowed are like_uniform_2 to"),
        ("like_uniform_17", "budget=like_uniform_17: allowed are like_uniform_2 to"),
        ("uniform", "budget=uniform: allowed are like_uniform_2 to like_uniform_16, and budget.megabytes, "),
    ],
)
def test_budgets_that_are_none(given: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_budget(given)


def test_what_the_fewest_bits_take_is_said(calibration: Calibration) -> None:
    size = network_size(calibration.graph)
    costs = size.costs(dict.fromkeys(calibration.graph.names, 3))
    said = f"take {costs['weight_bits'] / 8e6:.3g} MB and an image {costs['bit_operations'] / 1e9:.3g}e9 bit operations"
    with pytest.raises(InputError, match=re.escape(said)):
        allocate(calibration, budget=Budget(mean_bits=1.5), observer=MSE(), widths=("float", 4, 3))


def test_a_network_without_weights() -> None:
    """Nothing of the budget is spent on them, and so a uniform assignment of activations is as good as any."""
    model = nn.Sequential(nn.ReLU(), nn.AvgPool2d(4), nn.AvgPool2d(2), nn.Flatten()).eval()
    calibration = calibrate(capture(model, images(2), Fusion.none), [images(16)])
    found = allocate(calibration, budget=Budget(like_uniform=4), observer=MSE(), widths=(2, 8), steps=1)
    assert found.chosen.name == "uniform 8"


def test_tensors_of_a_network_with_other_channels_are_refused(calibration: Calibration) -> None:
    with pytest.raises(InputError, match=r"^recovery=Equalize: the search for widths measures each tensor"):
        allocate(calibration, budget=Budget(like_uniform=4), observer=MSE(), recovery=[Equalize(), Reconstruct()])


def test_what_cannot_be_kept_to(calibration: Calibration) -> None:
    with pytest.raises(InputError, match=r"budget.mean_bits=1.5: found no .* the fewest bits the weights take"):
        allocate(calibration, budget=Budget(mean_bits=1.5), observer=MSE(), widths=(2, 4))
    graph = calibration.graph
    others = sum(t.numel() for n, t in graph.graph.constants.items() if n not in {q.name for q in graph.weights})
    least = 4 * others / 1e6
    with pytest.raises(InputError, match=rf"budget.megabytes=1e-06: biases and the like alone take {least:.3g}$"):
        allocate(calibration, budget=Budget(megabytes=1e-6), observer=MSE(), widths=(2,))
    with pytest.raises(InputError, match=r"widths=\['float'\]: at least one must be a whole number"):
        allocate(calibration, budget=Budget(mean_bits=4), observer=MSE(), widths=("float",))
    with pytest.raises(InputError, match="give calibrate"):
        allocate(Calibration(calibration.graph, calibration.summaries), budget=Budget(mean_bits=4), observer=MSE())
    with pytest.raises(InputError, match=r"widths=\[1, 4\]: allowed are the whole numbers 2 to 16, and float"):
        allocate(calibration, budget=Budget(mean_bits=4), observer=MSE(), widths=(1, 4))
