"""The study's calibration against the same thing written out by hand, batch by batch."""

import copy

import pytest
import torch
import torch.nn.functional as F
from small_networks import images, tiny
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import fake_quantize, qparams_from_range
from quant_sweep.calibration.sequential import calibrate_sequentially
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, quantizable
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
    graph = quantizable(model, Fusion.none)
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
    for name, value in norm.state_dict().items():
        assert torch.equal(calibration.graph.module.bn.state_dict()[name], value), name


def test_the_users_graph_and_model_are_not_changed(model: nn.Module) -> None:
    graph = quantizable(model, Fusion.none)
    kept = [copy.deepcopy(graph.module.state_dict()), copy.deepcopy(model.state_dict())]
    calibration, _ = calibrate_sequentially(
        graph, BATCHES, assign_specs(graph, AFFINE, BitWidths(4, 4, {})), MinMax(), MinMax(), update_batch_norm=True
    )
    for before, after in zip(kept, (graph.module.state_dict(), model.state_dict()), strict=True):
        assert all(torch.equal(before[name], value) for name, value in after.items())
    assert not any(module.training for module in (*graph.module.modules(), *calibration.graph.module.modules()))
    assert not torch.equal(calibration.graph.module.bn.running_mean, model.bn.running_mean)


def test_without_reestimation_the_graph_is_the_users_own(model: nn.Module) -> None:
    graph = quantizable(model, Fusion.none)
    specs = assign_specs(graph, AFFINE, BitWidths(4, 4, {}))
    calibration, _ = calibrate_sequentially(graph, BATCHES, specs, MinMax(), MinMax())
    assert calibration.graph is graph


@pytest.mark.parametrize("fusion", [Fusion.bn, Fusion.conv_bn_relu])
def test_reestimation_needs_a_batch_norm(model: nn.Module, fusion: Fusion) -> None:
    graph = quantizable(model, fusion)
    specs = assign_specs(graph, AFFINE, BitWidths(4, 4, {}))
    with pytest.raises(InputError, match=rf"calibration.update_batch_norm=true: fusion={fusion.value}.*fusion=none"):
        calibrate_sequentially(graph, BATCHES, specs, MinMax(), MinMax(), update_batch_norm=True)


@pytest.mark.parametrize("fusion", Fusion)
def test_grids_depend_on_what_is_upstream(fusion: Fusion) -> None:
    """With 2-bit tensors before it, a tensor is not what the float network would have there."""
    graph = quantizable(tiny(), fusion)
    specs = assign_specs(graph, AFFINE, BitWidths(2, 2, {}))
    batches = [images(4, seed=seed) for seed in range(2)]
    calibration, qparams = calibrate_sequentially(graph, batches, specs, MovingAverage(), MinMax())
    assert qparams.keys() == set(graph.names)
    with torch.no_grad():
        seen = torch.cat([graph.module.conv1(batch) for batch in batches])
    name = next(name for name in calibration.summaries if name != "input")
    assert float(calibration.summaries[name].total.hi) != pytest.approx(float(seen.max()), rel=1e-3)
    assert calibration.summaries["input"].total.hi == torch.cat(batches).max()


def test_bad_input_is_named(model: nn.Module) -> None:
    graph = quantizable(model, Fusion.none)
    specs = assign_specs(graph, AFFINE, BitWidths(4, 4, {}))
    with pytest.raises(InputError, match=r"^input: .*NaN"):
        calibrate_sequentially(graph, [BATCHES[0] * torch.nan], specs, MinMax(), MinMax())
    with pytest.raises(InputError, match="no batch"):
        calibrate_sequentially(graph, [], specs, MinMax(), MinMax())
