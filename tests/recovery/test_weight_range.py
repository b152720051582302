"""Scales by the error of a layer's output, against a search that computes every output."""

import pytest
import torch
from layer_networks import LAYERS, inputs_of, on_grids, several
from small_networks import images
from torch import Tensor, nn

from quant_sweep.arithmetic.affine import fake_quantize, quantize
from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion
from quant_sweep.graph.fold import output_axis
from quant_sweep.quantization.scheme import AFFINE, Scheme
from quant_sweep.recovery import WeightRange
from quant_sweep.recovery.recover import damages

PER_TENSOR = Scheme(weight_per_channel=False, weight_narrow_range=True, activation_symmetric=True)
FOUR_LEVELS = Scheme(weight_per_channel=True, weight_narrow_range=False, activation_symmetric=False)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scheme", [AFFINE, PER_TENSOR, FOUR_LEVELS], ids=["affine", "per tensor", "four levels"])
def test_no_scale_of_a_search_serves_the_output_better(kind: str, scheme: Scheme) -> None:
    """Within what is between two of 41 scales."""
    torch.manual_seed(0)
    x = inputs_of(kind, 12)
    original, quantized = on_grids(nn.Sequential(LAYERS[kind]()).eval(), x, bits=2, scheme=scheme)
    made = WeightRange(damp=1e-6).recover(original, quantized, [x[:7], x[7:]])
    (weight,), (layer,) = original.weights, original.graph.nodes
    value, before, after = original.graph.constants[weight.name], quantized.qparams[weight.name], made.qparams
    assert torch.equal(made.graph.graph.constants[weight.name], value), "the codes are the nearest"
    read = fake_quantize(x, quantized.qparams["input"])
    axis = output_axis(layer)
    wanted = layer.operation(x.double(), value.double()).transpose(0, axis).flatten(1)

    def error(grid: QParams) -> Tensor:
        """Of each channel, with the best bias; one sum where they share a scale."""
        found = layer.operation(read.double(), fake_quantize(value, grid).double()).transpose(0, axis).flatten(1)
        errors = (found - wanted).var(1, correction=0)
        return errors if scheme.weight_per_channel else errors.sum()

    least = torch.stack(
        [error(QParams(before.scale * float(f), before.zero_point, before.spec)) for f in torch.linspace(0.1, 2, 41)]
    ).amin(0)
    found = error(after[weight.name])
    assert bool((found <= error(before) * (1 + 1e-4)).all()), "never worse than the range of the weights"
    assert bool((found <= least * 1.04 + 1e-6).all()), (found / least).amax()


@pytest.mark.parametrize("fusion", [Fusion.none, Fusion.conv_bn_relu])
def test_it_helps_images_that_it_did_not_see(fusion: Fusion) -> None:
    original, quantized = on_grids(several(), images(64), bits=3, fusion=fusion)
    made = WeightRange(rows=2000).recover(original, quantized, [images(64)])
    test = [images(64, seed=5)]
    assert damages(original, [made], test) < damages(original, [quantized], test)


def test_a_channel_of_nothing_keeps_its_scale() -> None:
    layer = nn.Conv2d(3, 4, 1)
    with torch.no_grad():
        layer.weight[1] = 0
    x = images(4)
    original, quantized = on_grids(nn.Sequential(layer).eval(), x, bits=2)
    made = WeightRange().recover(original, quantized, [x])
    grid = made.qparams["0.weight"]
    assert grid.scale[1] == quantized.qparams["0.weight"].scale[1] > 0
    assert int(quantize(made.graph.graph.constants["0.weight"], grid)[1].abs().max()) == 0


def test_is_seeded() -> None:
    torch.manual_seed(0)
    original, quantized = on_grids(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), images(8), bits=3)
    results = []
    for seed in (0, 0, 1):
        torch.manual_seed(torch.seed())
        made = WeightRange(rows=8, seed=seed).recover(original, quantized, [images(8)])
        results.append(torch.cat([made.qparams[name].scale for name in ("0.weight", "2.weight")]))
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])


def test_one_row_is_enough() -> None:
    original, quantized = on_grids(nn.Sequential(nn.Conv2d(3, 4, 3)).eval(), images(4), bits=3)
    made = WeightRange(rows=1).recover(original, quantized, [images(4)])
    assert bool((made.qparams["0.weight"].scale > 0).all())


@pytest.mark.parametrize(
    ("values", "message"), [({"rows": 0}, "rows=0: "), ({"seed": -1}, "seed=-1: "), ({"damp": 0.0}, r"damp=0\.0: ")]
)
def test_values_that_are_not_allowed(values: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        WeightRange(**values)
