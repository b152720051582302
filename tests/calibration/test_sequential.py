"""The study's calibration against the same thing written out by hand, batch by batch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_networks import SlowTwin, images, shaken, tiny
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from quant_sweep.arithmetic.affine import fake_quantize, qparams_from_range
from quant_sweep.calibration.sequential import _ReestimatingBatchNorm, calibrate_sequentially
from quant_sweep.engines import Simulate
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, Network, capture
from quant_sweep.graph.operations import BatchNorm
from quant_sweep.observers import MinMax, MovingAverage
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, assign_specs

SYMMETRIC = Scheme(weight_per_channel=False, weight_narrow_range=False, activation_symmetric=True)
BATCHES = [images(4, seed=seed, size=8) * (seed + 1) for seed in range(3)]


class TwoConvolutions(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn, self.conv2 = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(F.relu(self.bn(self.conv1(x))))


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(3)
    net = TwoConvolutions().eval()
    nn.init.uniform_(net.bn.running_var, 0.5, 2.0)
    nn.init.normal_(net.bn.running_mean)
    return net


class RunningMinMax:
    """min and max of all so far, then a grid, then its values."""

    def __init__(self, spec) -> None:
        self.spec, self.lo, self.hi = spec, torch.tensor(torch.inf), torch.tensor(-torch.inf)

    def __call__(self, x: Tensor) -> Tensor:
        self.lo, self.hi = torch.minimum(self.lo, x.min()), torch.maximum(self.hi, x.max())
        return fake_quantize(x, self.qparams())

    def qparams(self):
        return qparams_from_range(self.lo, self.hi, self.spec)


@pytest.mark.parametrize("scheme", [AFFINE, SYMMETRIC], ids=["affine", "symmetric"])
@pytest.mark.parametrize("update_batch_norm", [False, True])
@torch.no_grad()
def test_equals_the_same_by_hand(model: nn.Module, scheme: Scheme, update_batch_norm: bool) -> None:
    graph = capture(model, BATCHES[0], Fusion.none)
    specs = assign_specs(graph, scheme, BitWidths(4, 3, {}))
    calibration, qparams = calibrate_sequentially(graph, BATCHES, specs, MinMax(), MinMax(), update_batch_norm)

    def on_grid(name: str, weight: Tensor) -> Tensor:
        spec = specs[name]
        rows = weight.flatten(1)
        lo, hi = (rows.amin(1), rows.amax(1)) if spec.channel_axis == 0 else (rows.min(), rows.max())
        return fake_quantize(weight, qparams_from_range(lo, hi, spec))

    first, second = on_grid("conv1.weight", model.conv1.weight), on_grid("conv2.weight", model.conv2.weight)
    twin = {name: RunningMinMax(specs[name]) for name in ("input", "bn.output", "relu.output")}
    norm = copy.deepcopy(model.bn).train(update_batch_norm)
    for batch in BATCHES:
        x = F.conv2d(twin["input"](batch), first, model.conv1.bias)
        x = twin["relu.output"](F.relu(twin["bn.output"](norm(x))))
        F.conv2d(x, second, model.conv2.bias)

    assert qparams.keys() == {*twin, "conv1.weight", "conv2.weight"}
    for name, observed in twin.items():
        wanted = observed.qparams()
        assert torch.equal(qparams[name].scale, wanted.scale), name
        assert torch.equal(qparams[name].zero_point, wanted.zero_point), name
        assert torch.equal(calibration.summaries[name].total.lo[0], observed.lo)
        assert len(calibration.summaries[name].recent) == len(BATCHES)
    for name in ("running_mean", "running_var", "weight", "bias"):
        assert torch.equal(calibration.graph.graph.constants[f"bn.{name}"], norm.state_dict()[name]), name


class Deep(nn.Module):
    """BatchNorm of 1 and 2 dimensions, one of them called twice, with a residual add and pooling between."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1, self.relu1 = nn.Conv2d(3, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU()
        self.conv2, self.bn2, self.relu2 = nn.Conv2d(6, 6, 3, padding=1), nn.BatchNorm2d(6, 0.1, 0.3), nn.ReLU()
        self.conv3, self.relu3, self.pool = nn.Conv2d(6, 6, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(2)
        self.flatten, self.linear1, self.bn3 = nn.Flatten(), nn.Linear(24, 5), nn.BatchNorm1d(5, affine=False)
        self.relu4, self.linear2 = nn.ReLU(), nn.Linear(5, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu1(self.bn1(self.conv1(x)))
        x = self.relu2(self.bn2(self.conv2(x)) + x)
        x = self.relu3(self.bn2(self.conv3(x)))
        x = self.flatten(self.pool(x))
        return self.linear2(self.relu4(self.bn3(self.linear1(x))))


# What each tensor is called that is quantized with fusion=none, by the module that reads it.
READ_BY = {
    "conv1": "input", "relu1": "bn1.output", "conv2": "relu1.output", "relu2": "add.output", "conv3": "relu2.output",
    "relu3": "bn2_1.output", "pool": "relu3.output", "linear1": "pool.output", "relu4": "bn3.output",
    "linear2": "relu4.output",
}  # fmt: skip


@torch.no_grad()
def test_statistics_are_those_that_training_would_estimate() -> None:
    """The model itself in training mode, which knows nothing of graphs: hooks round what its modules read."""
    torch.manual_seed(1)
    model = shaken(Deep())
    graph = capture(model, BATCHES[0], Fusion.none)
    specs = assign_specs(graph, AFFINE, BitWidths(5, 4, {}))
    calibration, qparams = calibrate_sequentially(graph, BATCHES, specs, MinMax(), MinMax(), update_batch_norm=True)

    twin = copy.deepcopy(model).train()
    observed = {tensor: RunningMinMax(specs[tensor]) for tensor in READ_BY.values()}
    for path, module in twin.named_modules():
        if path in READ_BY:
            module.register_forward_pre_hook(lambda _, args, tensor=READ_BY[path]: observed[tensor](args[0]))
        if isinstance(module, nn.Conv2d | nn.Linear):
            rows = module.weight.flatten(1)
            module.weight.copy_(
                fake_quantize(module.weight, qparams_from_range(rows.amin(1), rows.amax(1), specs[f"{path}.weight"]))
            )
    for batch in BATCHES:
        twin(batch)

    assert qparams.keys() == {*observed, *(q.name for q in graph.weights)}
    for name, wanted in observed.items():
        assert torch.equal(qparams[name].scale, wanted.qparams().scale), name
        assert torch.equal(qparams[name].zero_point, wanted.qparams().zero_point), name
    for name, value in twin.state_dict().items():
        if "running" in name:
            assert torch.equal(calibration.graph.graph.constants[name], value), name
            assert not torch.equal(value, model.state_dict()[name])
    # What evaluates the network afterwards has the new statistics.
    evaluated = Simulate().build(calibration.graph, qparams)(BATCHES[1])
    assert torch.equal(evaluated, SlowTwin(calibration.graph, qparams).run(BATCHES[1]))
    assert not torch.equal(evaluated, Simulate().build(graph, qparams)(BATCHES[1]))


def test_statistics_stay_where_they_are_while_images_lie_on_a_gpu() -> None:
    """Fake tensors have a device and no values."""
    norm = BatchNorm(eps=1e-5, momentum=0.1)
    with FakeTensorMode() as mode:
        mean, variance = (mode.from_tensor(torch.ones(4)) for _ in range(2))
        x, gamma, beta = (
            mode.from_tensor(t).to("cuda") for t in (torch.ones(2, 4, 3, 3), torch.ones(4), torch.ones(4))
        )
        made = _ReestimatingBatchNorm(norm, mean, variance)(x, gamma, beta)
    assert (made.device.type, mean.device.type, variance.device.type) == ("cuda", "cpu", "cpu")


def test_cumulative_statistics_are_refused() -> None:
    """momentum=None weighs a batch by how many were seen in training, which the graph does not know."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, momentum=None), nn.ReLU(), nn.Conv2d(4, 2, 3)).eval()
    graph = capture(model, BATCHES[0], Fusion.none)
    specs = assign_specs(graph, AFFINE, BitWidths(8, 8, {}))
    with pytest.raises(InputError, match=r"^calibration\.update_batch_norm=true: 1\.output .*momentum=None"):
        calibrate_sequentially(graph, BATCHES, specs, MinMax(), MinMax(), update_batch_norm=True)
    calibrate_sequentially(graph, BATCHES, specs, MinMax(), MinMax())


def test_the_users_graph_and_model_are_not_changed(model: nn.Module) -> None:
    graph = capture(model, BATCHES[0], Fusion.none)
    kept = [
        {name: value.clone() for name, value in state.items()} for state in (graph.graph.constants, model.state_dict())
    ]
    calibration, _ = calibrate_sequentially(
        graph, BATCHES, assign_specs(graph, AFFINE, BitWidths(4, 4, {})), MinMax(), MinMax(), update_batch_norm=True
    )
    for before, after in zip(kept, (graph.graph.constants, model.state_dict()), strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], value) for name, value in after.items())
    assert not any(module.training for module in model.modules())
    assert calibration.graph.graph.described() == graph.graph.described()
    assert not torch.equal(calibration.graph.graph.constants["bn.running_mean"], model.bn.running_mean)


def test_without_reestimation_the_graph_is_the_users_own(model: nn.Module) -> None:
    graph = capture(model, BATCHES[0], Fusion.none)
    specs = assign_specs(graph, AFFINE, BitWidths(4, 4, {}))
    calibration, _ = calibrate_sequentially(graph, BATCHES, specs, MinMax(), MinMax())
    assert calibration.graph is graph


@pytest.mark.parametrize("fusion", [Fusion.bn, Fusion.conv_bn_relu])
def test_reestimation_needs_a_batch_norm(model: nn.Module, fusion: Fusion) -> None:
    graph = capture(model, BATCHES[0], fusion)
    specs = assign_specs(graph, AFFINE, BitWidths(4, 4, {}))
    with pytest.raises(InputError, match=rf"calibration.update_batch_norm=true: fusion={fusion.value}.*fusion=none"):
        calibrate_sequentially(graph, BATCHES, specs, MinMax(), MinMax(), update_batch_norm=True)


@pytest.mark.parametrize("fusion", Fusion)
def test_grids_depend_on_what_is_upstream(fusion: Fusion) -> None:
    """With 2-bit tensors before it, a tensor is not what the float network would have there."""
    graph = capture(tiny(), images(4), fusion)
    specs = assign_specs(graph, AFFINE, BitWidths(2, 2, {}))
    batches = [images(4, seed=seed) for seed in range(2)]
    calibration, qparams = calibrate_sequentially(graph, batches, specs, MovingAverage(), MinMax())
    assert qparams.keys() == set(graph.names)
    name = next(name for name in calibration.summaries if name != "input")
    with torch.no_grad():
        seen = torch.cat([Network(graph.graph).values(batch, keep=lambda _: True)[name] for batch in batches])
    assert float(calibration.summaries[name].total.hi) != pytest.approx(float(seen.max()), rel=1e-3)
    assert calibration.summaries["input"].total.hi == torch.cat(batches).max()


def test_bad_input_is_named(model: nn.Module) -> None:
    graph = capture(model, BATCHES[0], Fusion.none)
    specs = assign_specs(graph, AFFINE, BitWidths(4, 4, {}))
    with pytest.raises(InputError, match=r"^input: .*NaN"):
        calibrate_sequentially(graph, [BATCHES[0] * torch.nan], specs, MinMax(), MinMax())
    with pytest.raises(InputError, match="no batch"):
        calibrate_sequentially(graph, [], specs, MinMax(), MinMax())
