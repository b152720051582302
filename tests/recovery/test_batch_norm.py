"""Mean and spread of every channel, against the float network's, in float64."""

import pytest
import torch
from layer_networks import LAYERS, inputs_of, on_grids, several
from small_networks import SlowTwin, images
from torch import nn

from quant_sweep.arithmetic.affine import quantize
from quant_sweep.graph import Fusion, Network
from quant_sweep.graph.fold import output_axis
from quant_sweep.quantization.scheme import AFFINE, Scheme
from quant_sweep.recovery import BatchNormStatistics
from quant_sweep.recovery.recover import damages

PER_TENSOR = Scheme(weight_per_channel=False, weight_narrow_range=True, activation_symmetric=True)


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("scheme", [AFFINE, PER_TENSOR], ids=["per channel", "per tensor"])
def test_one_layer(kind: str, scheme: Scheme) -> None:
    torch.manual_seed(0)
    x = inputs_of(kind, 12)
    original, quantized = on_grids(nn.Sequential(LAYERS[kind]()).eval(), x, bits=3, scheme=scheme)
    made = BatchNormStatistics().recover(original, quantized, [x[:7], x[7:]])
    (weight,), (layer,) = original.weights, original.graph.nodes
    states = (quantized, made)
    codes = [quantize(s.graph.graph.constants[weight.name], s.qparams[weight.name]) for s in states]
    assert torch.equal(*codes), "only the scales change"
    wanted = Network(original.graph)(x).double().transpose(0, output_axis(layer)).flatten(1)
    found = SlowTwin(made.graph, made.qparams).run(x).double().transpose(0, output_axis(layer)).flatten(1)
    torch.testing.assert_close(found.mean(1), wanted.mean(1), rtol=1e-4, atol=1e-4)
    spread = [y.var(1, correction=0) for y in (found, wanted)]
    if scheme is PER_TENSOR:
        spread = [variances.sum() for variances in spread]
    torch.testing.assert_close(*spread, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("fusion", [Fusion.none, Fusion.conv_bn_relu])
def test_it_helps_images_that_it_did_not_see(fusion: Fusion) -> None:
    original, quantized = on_grids(several(), images(64), bits=3, fusion=fusion)
    made = BatchNormStatistics().recover(original, quantized, [images(64)])
    test = [images(64, seed=5)]
    assert damages(original, [made], test) < damages(original, [quantized], test)


def test_a_channel_of_nothing_stays_one() -> None:
    layer = nn.Conv2d(3, 4, 1)
    nn.init.zeros_(layer.weight[1:2].detach())
    with torch.no_grad():
        layer.weight[1] = 0
    x = images(4)
    original, quantized = on_grids(nn.Sequential(layer).eval(), x, bits=2)
    made = BatchNormStatistics().recover(original, quantized, [x])
    assert made.qparams["0.weight"].scale[1] == quantized.qparams["0.weight"].scale[1]
    torch.testing.assert_close(made.graph.graph.constants["0.bias"][1], layer.bias[1].detach())


@pytest.mark.parametrize("scheme", [AFFINE, PER_TENSOR], ids=["per channel", "per tensor"])
def test_what_is_constant_in_the_float_network_keeps_its_scale(scheme: Scheme) -> None:
    """The weights 1, 1, 1 and -3 of one number add up to nothing until they are rounded: no gain takes that back."""
    layer = nn.Conv2d(4, 2, 1)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([1.0, 1.0, 1.0, -3.0]).reshape(1, 4, 1, 1))
    x = images(4)[:, :1].mul(8).round().expand(-1, 4, -1, -1)
    original, quantized = on_grids(nn.Sequential(layer).eval(), x, bits=2, scheme=scheme)
    rounded = Network(original.graph)(x) - SlowTwin(quantized.graph, quantized.qparams).run(x)
    assert float(rounded.std()) > 0.1
    made = BatchNormStatistics().recover(original, quantized, [x])
    assert torch.equal(made.qparams["0.weight"].scale, quantized.qparams["0.weight"].scale)
    torch.testing.assert_close(
        SlowTwin(made.graph, made.qparams).run(x).mean((0, 2, 3)), layer.bias.detach(), rtol=1e-4, atol=1e-4
    )
