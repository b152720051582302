"""The integer program against all assignments of small networks, and what networks cost."""

import itertools
from collections.abc import Callable, Mapping, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from layer_networks import LAYERS as LAYER_KINDS
from layer_networks import inputs_of, several
from small_networks import SlowTwin, images, tiny
from torch import Tensor, nn

from quant_sweep.graph import Fusion, capture
from quant_sweep.quantization import allocation
from quant_sweep.quantization.allocation import (
    ACTIVATION_BITS,
    BIT_OPERATIONS,
    WEIGHT_BITS,
    LayerSize,
    NetworkSize,
    bits_of,
    least_damage,
    network_size,
    sharing_groups,
)

WIDTHS = (2, 4, 8, "float")
# Two layers read tensors that are in float whatever the widths.
LAYERS = [("w1", "float 1", 30), ("w1", "a1", 900), ("w1", "float 2", 11), ("w2", "a2", 40), ("w2", "a3", 25)]
SIZE = NetworkSize({"w1": 9, "w2": 40}, {"a1": 100, "a2": 7, "a3": 60}, [LayerSize(*layer) for layer in LAYERS])
NAMES = (*SIZE.weights, *SIZE.activations)
GROUPS = [("a1", "a3"), ("a2", "w2"), ("w1",)]  # a weight with an activation: nobody needs it, but it is allowed


def brute(
    damages: Mapping[str, Mapping[object, float]], groups: Sequence[tuple[str, ...]], caps: Mapping[str, float]
) -> float | None:
    """The least sum of damages over all assignments within the caps."""
    found = []
    for chosen in itertools.product(WIDTHS, repeat=len(groups)):
        widths = {name: width for group, width in zip(groups, chosen, strict=True) for name in group}
        if all(SIZE.costs(widths)[name] <= most * (1 + 1e-9) for name, most in caps.items()):
            found.append(sum(damages[name][width] for name, width in widths.items()))
    return min(found, default=None)


falling = st.lists(st.floats(-10, 10), min_size=4, max_size=4).map(
    lambda values: dict(zip(WIDTHS, sorted(values, reverse=True), strict=True))
)
cap = st.floats(1.2, 40)


@settings(max_examples=60, deadline=None)
@given(
    damages=st.fixed_dictionaries(dict.fromkeys(NAMES, falling)),
    caps=st.dictionaries(st.sampled_from([WEIGHT_BITS, ACTIVATION_BITS, BIT_OPERATIONS]), cap, min_size=1),
)
def test_no_assignment_within_the_caps_does_less_damage(
    damages: dict[str, dict[object, float]], caps: dict[str, float]
) -> None:
    ones = SIZE.costs(dict.fromkeys(NAMES, 2))
    caps = {name: ones[name] / 2 * factor for name, factor in caps.items()}
    found, least = least_damage(damages, GROUPS, SIZE, caps), brute(damages, GROUPS, caps)
    assert (found is None) == (least is None)
    if found is not None and least is not None:
        assert all(len({found[name] for name in group}) == 1 for group in GROUPS)
        assert all(SIZE.costs(found)[name] <= most * (1 + 1e-6) for name, most in caps.items())
        assert sum(damages[name][width] for name, width in found.items()) <= least + 1e-3 * abs(least) + 1e-6


def test_what_was_tried_is_not_found_again() -> None:
    damages = {name: {2: two, 4: 1.0} for name, two in zip(NAMES, (2.0, 2.5, 3.2, 3.4, 5.0), strict=True)}
    groups, found = [(name,) for name in NAMES], list[dict[str, object]]()
    for _ in range(4):
        following = least_damage(damages, groups, SIZE, {}, tried=found)
        assert following is not None
        found.append(following)
    best = dict.fromkeys(NAMES, 4)
    assert found == [best, {**best, "w1": 2}, {**best, "w2": 2}, {**best, "a1": 2}]
    only = {name: {2: 1.0} for name in NAMES}
    assert least_damage(only, groups, SIZE, {}, tried=[dict.fromkeys(NAMES, 2)]) is None


def test_a_tensor_that_an_assignment_does_not_name_was_tried_in_float() -> None:
    groups = [(name,) for name in NAMES]
    damages = {name: {4: 1.0 + i, "float": 0.0} for i, name in enumerate(NAMES)}
    everything = dict.fromkeys(NAMES, "float")
    assert least_damage(damages, groups, SIZE, {}, tried=[{}]) == {**everything, "w1": 4}
    assert least_damage(damages, groups, SIZE, {}, tried=[{}, {"w1": 4}]) == {**everything, "w2": 4}


def test_assignments_of_other_widths_exclude_nothing() -> None:
    damages, groups = {name: {2: 1.0, 4: 0.5} for name in NAMES}, [(name,) for name in NAMES]
    assert least_damage(damages, groups, SIZE, {}, tried=[dict.fromkeys(NAMES, 16)]) == dict.fromkeys(NAMES, 4)


def test_more_bits_do_no_more_damage() -> None:
    damages = {name: {2: 1.0, 4: 0.0, 8: 0.5} for name in NAMES}
    found = least_damage(damages, [(name,) for name in damages], SIZE, {})
    assert set(found.values()) <= {4, 8}, "noise at 8 bits is no reason for 4, nor against them"


def slow_products(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Counted by hooks: outputs of a layer times the weights of each, or inputs times the weights of each."""
    found: dict[str, int] = {}

    def count(name: str, module: nn.Module, given: Tensor, made: Tensor) -> None:
        if isinstance(module, nn.ConvTranspose2d):
            found[f"{name}.weight"] = given[0].numel() * module.weight[0].numel()
        else:
            found[f"{name}.weight"] = made[0].numel() * module.weight[0].numel()

    for name, module in model.named_modules():
        if hasattr(module, "weight") and module.weight.dim() > 1:
            module.register_forward_hook(lambda m, given, made, n=name: count(n, m, given[0], made))
    with torch.no_grad():
        model(x)
    return found


ONE_CHANNEL: dict[str, Callable[[], nn.Module]] = {
    "to one": lambda: nn.Conv2d(3, 1, 3),
    "transposed to one": lambda: nn.ConvTranspose2d(3, 1, 2, 2),
    "linear to one": lambda: nn.Linear(6, 1),
    "from one": lambda: nn.Conv2d(1, 2, 3),
}


@pytest.mark.parametrize("name", [*LAYER_KINDS, *ONE_CHANNEL])
def test_products_of_a_layer(name: str) -> None:
    layer = (LAYER_KINDS | ONE_CHANNEL)[name]()
    if name in LAYER_KINDS:
        x = inputs_of(name, 2)
    else:
        x = torch.randn(2, 6) if isinstance(layer, nn.Linear) else torch.randn(2, layer.in_channels, 6, 5)
    model = nn.Sequential(layer).eval()
    found = {call.weight: call.products for call in network_size(capture(model, x, Fusion.none)).layers}
    assert found == slow_products(model, x[:1])
    assert {type(products) for products in found.values()} == {int}


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
def test_numbers_in_each_tensor(fusion: Fusion) -> None:
    graph = capture(several(), images(2), fusion)
    size, twin = network_size(graph), SlowTwin(graph, {})
    twin.run(images(1))
    assert size.activations == {q.name: twin.values[q.name].numel() for q in graph.activations}
    assert size.weights == {q.name: twin.values[q.name].numel() for q in graph.weights}


def test_costs_of_a_network() -> None:
    graph = capture(several(), images(2), Fusion.conv_bn_relu)
    size = network_size(graph)
    assert {call.weight: call.products for call in size.layers} == slow_products(several(), images(1))
    assert {call.input for call in size.layers} <= set(size.activations)
    uniform = size.costs(dict.fromkeys(graph.names, 4))
    assert uniform[WEIGHT_BITS] == 4 * sum(graph.graph.constants[q.name].numel() for q in graph.weights)
    assert uniform[BIT_OPERATIONS] == 16 * sum(call.products for call in size.layers)
    assert uniform[ACTIVATION_BITS] == 4 * sum(size.activations.values())
    assert size.costs({})[BIT_OPERATIONS] == 64 * uniform[BIT_OPERATIONS]
    assert bits_of("float") == 32


class Joined(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.d = (nn.Conv2d(3, 3, 1) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        a, b = torch.relu(self.a(x)), torch.relu(self.b(x))
        return self.d(torch.relu(self.c(torch.cat([a, b], 1)[:, :3]) + a)).mean((2, 3))


def test_what_a_sum_or_a_concatenation_reads_shares_a_width() -> None:
    groups = sharing_groups(capture(Joined().eval(), images(2), Fusion.conv_bn_relu), {})
    together = [group for group in groups if len(group) > 1]
    assert together == [("relu.output", "relu_1.output")]
    graph = capture(tiny(), images(2), Fusion.none)
    assert sorted(name for group in sharing_groups(graph, {}) for name in group) == sorted(graph.names)
    assert ("conv2.weight", "linear.weight") in sharing_groups(graph, {"conv2.weight": "linear.weight"})


def test_the_solver_stops_when_its_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here before it has any answer; with time it has one and the proof in half a second."""
    count, widths = 4, (2, 3, 4, 5, 6, 7, 8)
    layers = [LayerSize(f"w{i * i % count}", f"a{i * 7 % count}", 100 + 371 * i % 900) for i in range(3 * count)]
    weights, activations = ({f"{kind}{i}": 1000 + 613 * i % 1000 for i in range(count)} for kind in "wa")
    size = NetworkSize(weights, activations, layers)
    names = (*weights, *activations)
    damages = {name: {bits: (1 + 0.37 * i % 1) * 2.0**-bits for bits in widths} for i, name in enumerate(names)}
    monkeypatch.setattr(allocation, "_SECONDS", 0.0)
    assert least_damage(damages, [(name,) for name in names], size, size.costs(dict.fromkeys(names, 4))) is None


def test_nothing_fits() -> None:
    damages = {name: {2: 1.0} for name in NAMES}
    assert least_damage(damages, [(name,) for name in damages], SIZE, {WEIGHT_BITS: 1.0}) is None


@pytest.mark.parametrize("tensor", ["conv1.weight", "input"])
def test_bits_go_where_they_matter(tensor: str) -> None:
    graph = capture(tiny(), images(2), Fusion.conv_bn_relu)
    damages = {name: {b: (10.0 if name == tensor else 0.1) * 4.0**-b for b in (2, 3, 4, 6, 8)} for name in graph.names}
    size = network_size(graph)
    caps = size.costs(dict.fromkeys(graph.names, 4))
    found = least_damage(damages, sharing_groups(graph, {}), size, caps)
    assert found[tensor] > 4
    assert all(size.costs(found)[name] <= most for name, most in caps.items())
