"""One part at a time in few bits: against the same done by hand with hooks, and against `Simulate`."""

import math
from collections.abc import Mapping
from dataclasses import replace

import pytest
import torch
from small_networks import captured, images, tiny, watched
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import fake_quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import Calibration, calibrate, choose_qparams
from quant_sweep.engines import Simulate
from quant_sweep.evaluation.logit_damage import Damage, logit_kl
from quant_sweep.evaluation.metrics import SquaredError, Top1
from quant_sweep.evaluation.sensitivity import Part, Sensitivities, _Grids, measure_sensitivity, own_sqnr_db, parts_of
from quant_sweep.graph import Fusion, Network, capture
from quant_sweep.observers import MSE, MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs

LABELS = torch.arange(24) % 4


def calibrated(model: nn.Module, fusion: Fusion, bits: int = 3) -> tuple[Calibration, dict[str, QParams]]:
    calibration = calibrate(capture(model, images(2), fusion), [images(8)])
    specs = assign_specs(calibration.graph, AFFINE, BitWidths(bits, bits, {}))
    return calibration, choose_qparams(calibration, specs, MSE(), MinMax())


def batches(size: int = 24) -> list[tuple[Tensor, Tensor]]:
    return list(zip(images(24, seed=9).split(size), LABELS.split(size), strict=True))


class Chain(nn.Module):
    """Every activation is read by one layer only, so that a hook on that layer can round it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.relu1 = nn.Conv2d(3, 6, 3, stride=2), nn.ReLU()
        self.conv2, self.relu2 = nn.Conv2d(6, 6, 3, stride=2), nn.ReLU()
        self.flatten, self.linear = nn.Flatten(), nn.Linear(54, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu2(self.conv2(self.relu1(self.conv1(x))))
        return self.linear(self.flatten(x))


READS = {"conv1": "input", "conv2": "relu1.output", "linear": "relu2.output"}


def by_hand(tensor: str, qparams: Mapping[str, QParams]) -> Tensor:
    """Logits of a fresh `Chain` in which one tensor is rounded."""
    torch.manual_seed(0)
    model = Chain().eval()
    for layer, read in READS.items():
        module = model.get_submodule(layer)
        if tensor == read:
            module.register_forward_pre_hook(lambda _, args: fake_quantize(args[0], qparams[tensor]))
        if tensor == f"{layer}.weight":
            module.weight.data = fake_quantize(module.weight.data, qparams[tensor])
    with torch.no_grad():
        return model(images(24, seed=9))


def test_every_tensor_against_hooks_and_formulas() -> None:
    torch.manual_seed(0)
    calibration, qparams = calibrated(Chain().eval(), Fusion.conv_bn_relu)
    measured = measure_sensitivity(calibration.graph, qparams, batches())
    original = by_hand("none", qparams)
    right = (original.argmax(1) == LABELS).sum().item()
    assert measured.images == 24
    assert measured.float_value == pytest.approx(100 * right / 24)
    single = {part.name: damage for part, damage in measured.damages.items() if len(part.tensors) == 1}
    assert set(single) == {*READS.values(), *(f"{layer}.weight" for layer in READS)}
    for name, damage in single.items():
        logits = by_hand(name, qparams)
        p, q = (torch.softmax(z.double(), dim=1) for z in (original, logits))
        kl = sum((pi * (pi / qi).log()).sum().item() for pi, qi in zip(p, q, strict=True)) / 24
        noise = sum((a - b) ** 2 for a, b in zip(original.flatten().tolist(), logits.flatten().tolist(), strict=True))
        signal = sum(a**2 for a in original.flatten().tolist())
        assert damage.logit_kl == pytest.approx(kl, rel=1e-6)
        assert damage.logit_kl > 0
        assert damage.logit_sqnr_db == pytest.approx(10 * math.log10(signal / noise), rel=1e-6)
        assert damage.drop == pytest.approx(100 * (right - (logits.argmax(1) == LABELS).sum().item()) / 24)


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
def test_every_part_is_what_simulate_makes_of_its_tensors(fusion: Fusion) -> None:
    """With a residual add, pooling and BatchNorm on the way."""
    calibration, qparams = calibrated(tiny(), fusion)
    graph = calibration.graph
    measured = measure_sensitivity(graph, qparams, batches(7))
    batch, labels = batches()[0]
    assert tuple(measured.damages) == parts_of(graph, graph.names)
    with torch.no_grad():
        original = Network(graph.graph)(batch)
        for part, damage in measured.damages.items():
            logits = Simulate().build(graph, {name: qparams[name] for name in part.tensors})(batch)
            assert damage.logit_kl == pytest.approx(logit_kl(original, logits).mean().item(), rel=1e-3, abs=1e-9)
            lost = (original.argmax(1) == labels).sum() - (logits.argmax(1) == labels).sum()
            assert damage.drop == pytest.approx(100 * lost.item() / 24)


def test_parts() -> None:
    graph = captured(tiny, Fusion.conv_bn_relu)
    parts = parts_of(graph, graph.names)
    assert parts[0] == Part("whole network", "network", graph.names)
    assert [(part.name, part.tensors) for part in parts if part.kind == "layer"] == [
        ("conv1", ("conv1.weight", "input")),
        ("conv2", ("conv2.weight", "relu.output")),
        ("linear", ("linear.weight", "adaptive_avg_pool2d.output")),
    ]
    single = [part for part in parts if part.kind in ("weight", "activation")]
    assert sorted(part.name for part in single) == sorted(graph.names)
    assert all(part.tensors == (part.name,) for part in single)


def test_a_layer_that_is_called_twice_reads_two_tensors() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.relu, self.pool = nn.Conv2d(3, 3, 1), nn.ReLU(), nn.MaxPool2d(2)

        def forward(self, x: Tensor) -> Tensor:
            return self.conv(self.pool(self.relu(self.conv(x))))

    graph = capture(Twice().eval(), images(2), Fusion.conv_bn_relu)
    layers = [part for part in parts_of(graph, graph.names) if part.kind == "layer"]
    assert layers == [Part("conv", "layer", ("conv.weight", "input", "relu.output"))]


def test_what_lies_upstream_is_computed_once() -> None:
    calibration, qparams = calibrated(tiny(), Fusion.conv_bn_relu)
    calls: list[str] = []
    layers = [f"{layer}.output" for layer in ("conv1", "conv2", "linear")]
    counting = watched(calibration.graph.graph, layers, lambda name, _: calls.append(name))
    measure_sensitivity(replace(calibration.graph, graph=counting), qparams, batches())
    # In float; and in parts: the network, itself, its weight, its input, and those of the layers before.
    assert [calls.count(layer) for layer in layers] == [
        1 + 4,
        1 + 7,
        1 + len(parts_of(calibration.graph, calibration.graph.names)),
    ]


def test_table_ranks_by_divergence_and_knows_the_tensors_own_ratio() -> None:
    calibration, qparams = calibrated(tiny(), Fusion.conv_bn_relu)
    graph = calibration.graph
    ratios = own_sqnr_db(graph, qparams, calibration.summaries)
    table = measure_sensitivity(graph, qparams, batches()).table(ratios)
    assert list(table.columns) == [
        *("name", "kind", "tensors", "accuracy_drop", "logit_kl", "logit_sqnr_db", "own_sqnr_db")
    ]
    assert table["logit_kl"].is_monotonic_decreasing
    assert len(table) == len(parts_of(graph, graph.names))
    rows = table.set_index("name")
    assert rows.loc["conv2", "tensors"] == "conv2.weight relu.output"
    assert rows["own_sqnr_db"].notna().to_dict() == {name: name in graph.names for name in rows.index}
    weight = graph.graph.constants["conv2.weight"]
    noise = weight - fake_quantize(weight, qparams["conv2.weight"])
    assert rows.loc["conv2.weight", "own_sqnr_db"] == pytest.approx(
        20 * math.log10(weight.norm() / noise.norm()), rel=1e-4
    )
    batch = images(8)  # what calibration saw
    noise = batch - fake_quantize(batch, qparams["input"])
    assert rows.loc["input", "own_sqnr_db"] == pytest.approx(20 * math.log10(batch.norm() / noise.norm()), abs=0.1)


@pytest.mark.parametrize("logits", [True, False])
def test_the_most_damaging_part_is_the_first_row_and_of_equal_ones_the_first_name(logits: bool) -> None:
    """By the divergence of logits; where outputs are none, by their relative error."""
    found = {"b": (1.0, 0.5), "a": (1.0, 0.5), "d": (0.2, 4.0), "c": (3.0, 0.1)}
    damages = {
        Part(name, "weight", (name,)): Damage(2.0, kl, error, 1.0) if logits else Damage(None, None, error, 1.0)
        for name, (kl, error) in found.items()
    }
    table = Sensitivities(10, Top1() if logits else SquaredError(), None, damages).table({"a": 30.0})
    assert table["name"].tolist() == (["c", "a", "b", "d"] if logits else ["d", "a", "b", "c"])
    assert table.index.tolist() == [0, 1, 2, 3]
    measured = ["accuracy_drop", "logit_kl"] if logits else ["relative_error"]
    assert list(table.columns) == ["name", "kind", "tensors", *measured, "logit_sqnr_db", "own_sqnr_db"]
    assert table[measured[-1]].tolist() == ([3.0, 1.0, 1.0, 0.2] if logits else [4.0, 0.5, 0.5, 0.1])
    assert table["own_sqnr_db"].dropna().to_dict() == {1: 30.0}


def test_more_bits_do_less() -> None:
    few, many = (
        measure_sensitivity(calibration.graph, qparams, batches()).damages
        for calibration, qparams in (calibrated(tiny(), Fusion.bn, bits) for bits in (2, 12))
    )
    for part, damage in few.items():
        assert many[part].logit_kl < 0.01 * damage.logit_kl
        assert many[part].logit_sqnr_db > damage.logit_sqnr_db + 20


def test_the_network_and_its_rounded_weights_lie_where_the_images_do() -> None:
    """On a device without numbers, which every machine has."""
    calibration, qparams = calibrated(tiny(), Fusion.conv_bn_relu)
    graph, device = calibration.graph, torch.device("meta")
    grids = _Grids(graph, qparams, device)
    values = grids.network.values(images(2).to(device), keep=lambda _: True)
    for part in parts_of(graph, graph.names):
        activations, weights = grids.of(part)
        assert {weight.device for weight in weights.values()} <= {device}
        assert grids.network.again(values, activations, weights).device == device
    assert {constant.device for constant in grids.network.state_dict().values()} == {device}


def test_the_graph_stays_as_it_was() -> None:
    calibration, qparams = calibrated(tiny(), Fusion.conv_bn_relu)
    graph = calibration.graph.graph
    state, described = {name: value.clone() for name, value in graph.constants.items()}, graph.described()
    measure_sensitivity(calibration.graph, qparams, batches())
    assert graph.described() == described
    assert graph.constants.keys() == state.keys()
    assert all(torch.equal(value, state[name]) for name, value in graph.constants.items())


def test_grids_that_change_nothing_do_no_damage() -> None:
    """A network whose weights and inputs lie on their grids already."""
    linear = nn.Linear(4, 3, bias=False)
    linear.weight.data = torch.tensor([[1.0, -1.0, 0.0, 0.0], [0.0, 1.0, 0.0, -1.0], [1.0, 0.0, 0.0, -1.0]])
    batch = torch.randint(0, 4, (10, 4), generator=torch.Generator().manual_seed(0)).float()
    calibration = calibrate(capture(nn.Sequential(linear).eval(), batch, Fusion.conv_bn_relu), [batch])
    specs = assign_specs(calibration.graph, AFFINE, BitWidths(2, 2, {}))
    qparams = choose_qparams(calibration, specs, MinMax(), MinMax())
    for damage in measure_sensitivity(calibration.graph, qparams, [(batch, torch.zeros(10).long())]).damages.values():
        assert (damage.drop, damage.logit_kl, damage.logit_sqnr_db) == (0.0, 0.0, math.inf)


def test_nan_and_nothing() -> None:
    calibration, qparams = calibrated(tiny(), Fusion.conv_bn_relu)
    with pytest.raises(ValueError, match="at least one batch"):
        measure_sensitivity(calibration.graph, qparams, [])
    calibration.graph.graph.constants["linear.bias"][1] = torch.nan
    with pytest.raises(FloatingPointError, match="NaN"):
        measure_sensitivity(calibration.graph, qparams, batches())
