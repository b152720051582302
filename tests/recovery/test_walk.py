"""The walk over a network: its order, what a layer is shown, and weights that it leaves alone."""

from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from layer_networks import on_grids, several
from small_networks import SlowTwin, images
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import INPUT, Network, QuantGraph
from quant_sweep.recovery.walk import Layer, channel_means, walk


def unchanged(layer: Layer) -> tuple[Tensor, QParams]:
    return layer.weight, layer.grid


def smaller(layer: Layer) -> tuple[Tensor, QParams]:
    return 0.8 * layer.weight, layer.grid


def test_a_layer_is_shown_what_it_reads_and_what_it_should_write() -> None:
    graph, quantized = on_grids(several(), images(8), bits=4)
    seen: dict[str, tuple[Tensor, Tensor]] = {}

    def note(layer: Layer) -> tuple[Tensor, QParams]:
        assert len(layer.inputs) == len(layer.targets) == 2
        seen[layer.name] = torch.cat(list(layer.inputs)), torch.cat(list(layer.targets))
        return unchanged(layer)

    made = walk(graph, quantized, [images(5), images(8)[5:]], note)
    twin = SlowTwin(made.graph, made.qparams)
    twin.run(images(8))
    wanted = Network(graph.graph).values(images(8), keep=lambda _: True)
    order = "stem depthwise shortcut grouped dilated up line head"
    assert list(seen) == [f"{name}.output" for name in order.split()]
    for name, (inputs, targets) in seen.items():
        node = made.graph.graph.node[name]
        torch.testing.assert_close(inputs, twin._read(node.inputs[0], name))
        added: Mapping[str, str] = {"depthwise.output": "relu.output", "grouped.output": "shortcut.output"}
        target = wanted[name]
        if name in added:
            add = next(reader for reader in made.graph.graph.readers[name])
            target = target + wanted[added[name]] - twin._read(added[name], add.name)
        torch.testing.assert_close(targets, target, rtol=1e-4, atol=1e-4)


def targets_of(factor: float) -> dict[str, Tensor]:
    """What the layers of a network should write, all its outputs being `factor` times as large."""
    graph, quantized = on_grids(several(), images(8), bits=4)
    seen: dict[str, Tensor] = {}

    def scaled(named: QuantGraph) -> QuantGraph:
        constants = {n: v * factor if n.startswith("stem") else v for n, v in named.graph.constants.items()}
        return replace(named, graph=replace(named.graph, constants=constants))

    def note(layer: Layer) -> tuple[Tensor, QParams]:
        seen[layer.name] = torch.cat(list(layer.targets))
        return unchanged(layer)

    walk(scaled(graph), replace(quantized, graph=scaled(quantized.graph)), [images(5), images(8)[5:]], note)
    return seen


@pytest.mark.parametrize("factor", [1.0, 1e6, 1e-7])
def test_large_tensors_are_kept_in_half_precision_where_it_has_their_values(
    monkeypatch: pytest.MonkeyPatch, factor: float
) -> None:
    wanted = targets_of(factor)
    monkeypatch.setattr("quant_sweep.recovery.walk._LARGE", 1)
    halved = targets_of(factor)
    for name, target in wanted.items():
        assert halved[name].dtype == torch.float32
        size = float(target.abs().max())
        # Of itself or what its sum adds, and of the one it was computed from.
        torch.testing.assert_close(halved[name], target, rtol=0, atol=2.0**-8 * size)
    stem = torch.equal(halved["stem.output"], wanted["stem.output"])
    assert stem == (factor != 1.0), "the first layer's are kept as they are where half precision does not have them"


def test_small_tensors_are_kept_as_they_are(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = targets_of(1.0)
    largest = max(target.nbytes for target in wanted.values())
    for limit, same in ((3 * largest, True), (1, False)):
        monkeypatch.setattr("quant_sweep.recovery.walk._LARGE", limit)
        found = targets_of(1.0)
        assert all(torch.equal(found[name], wanted[name]) for name in wanted) == same


def test_progress_knows_how_many_nodes_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, quantized = on_grids(several(), images(8), bits=4)
    told: list[int | None] = []
    monkeypatch.setattr("quant_sweep.recovery.walk.tracked", lambda nodes, _name, total: told.append(total) or nodes)
    walk(graph, quantized, [images(8)], unchanged)
    assert told == [len(graph.graph.nodes)]


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_steps_follow_the_tensors(power: float) -> None:
    """All that the network computes; they become smaller where weights are."""
    graph, quantized = on_grids(several(), images(8), bits=4)
    made = walk(graph, quantized, [images(8)[:3], images(8)[3:]], smaller, power)
    twin = SlowTwin(made.graph, made.qparams)
    twin.run(images(8))
    wanted = Network(graph.graph).values(images(8), keep=lambda _: True)
    names = [q.name for q in graph.activations]
    assert len(names) > 5
    for name in names:
        ratio = 1.0 if name == INPUT else float(twin.values[name].double().norm() / wanted[name].double().norm())
        assert (name == INPUT) == (ratio == 1.0)
        before, after = quantized.qparams[name], made.qparams[name]
        assert float(after.scale / before.scale) == pytest.approx(ratio**power, rel=1e-4), name
        assert torch.equal(after.zero_point, before.zero_point)


def test_the_step_of_a_tensor_of_zeros_stays() -> None:
    """Behind a ReLU that lets nothing through, in float because all is just below 0, or here because weights are 0."""
    graph, quantized = on_grids(several(), images(8), bits=4)
    node = graph.graph.node["stem.output"]
    highest = Network(graph.graph).values(images(8), keep=lambda _: True)[node.name].amax((0, 2, 3))
    constants = graph.graph.constants | {node.inputs[2]: graph.graph.constants[node.inputs[2]] - highest - 1e-3}
    below = replace(graph, graph=replace(graph.graph, constants=constants))
    for original, factor in ((below, 1.0), (graph, 0.0)):
        made = walk(original, quantized, [images(8)], lambda layer, f=factor: (f * layer.weight, layer.grid), 1.0)
        scales = torch.stack([made.qparams[q.name].scale for q in graph.activations])
        assert bool((scales.isfinite() & (scales > 0)).all())


class Shared(nn.Module):
    """One layer called twice, another whose bias another layer shares."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.one, self.other = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.other.bias = self.one.bias

    def forward(self, x: Tensor) -> Tensor:
        x = F.relu(self.twice(F.relu(self.twice(x))))
        return self.other(F.relu(self.one(x))).mean((2, 3))


def test_shared_weights_stay_and_shared_biases_become_two() -> None:
    torch.manual_seed(0)
    graph, quantized = on_grids(Shared().eval(), images(8), bits=4)
    seen: list[str] = []
    made = walk(graph, quantized, [images(8)], lambda layer: seen.append(layer.name) or unchanged(layer))
    assert seen == ["one.output", "other.output"]
    nodes = made.graph.graph.node
    assert nodes["one.output"].inputs[2] != nodes["other.output"].inputs[2]
    for name in ("twice.weight", "twice.bias"):
        assert torch.equal(made.graph.graph.constants[name], graph.graph.constants[name])
    twin = SlowTwin(made.graph, made.qparams)
    found, wanted = twin.run(images(8)).mean(dim=0), Network(graph.graph)(images(8)).mean(dim=0)
    torch.testing.assert_close(found, wanted)


def test_channel_means() -> None:
    batches = [torch.randn(2, 3, 4), torch.randn(5, 3, 4)]
    torch.testing.assert_close(channel_means(batches, 1), torch.cat(batches).double().mean(dim=(0, 2)))
    torch.testing.assert_close(channel_means(batches, 2), torch.cat(batches).double().mean(dim=(0, 1)))
