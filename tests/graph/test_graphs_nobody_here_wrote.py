"""torchvision's networks, with random weights and random BatchNorm statistics, in all three fusions."""

import copy
import re
import warnings

import pytest
import torch
import torchvision
from networks import WEIGHTED, is_coarse, randomize_batch_norms, run_on_coarse_grids
from torch import nn

from quant_sweep.arithmetic.affine import fake_quantize, qparams_from_range
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.graph import Fusion, QuantGraph, insert_at_points, put_weights_on_grid, quantizable

ARCHITECTURES = (
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "googlenet", "vgg11_bn", "efficientnet_b0",
    "shufflenet_v2_x0_5", "convnext_tiny",
)  # fmt: skip
FOLDS_ALL = {"resnet18", "mobilenet_v2", "mobilenet_v3_small", "googlenet", "vgg11_bn", "efficientnet_b0"}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # googlenet announces a change of its initialisation
        heads = {"aux_logits": False, "init_weights": False} if request.param == "googlenet" else {}
        model = torchvision.models.get_model(request.param, weights=None, num_classes=10, **heads)
    if request.param == "vgg11_bn":  # 4096 x 25088 weights are slow and prove no more
        model.classifier[0], model.classifier[3] = nn.Linear(25088, 32), nn.Linear(32, 32)
        model.classifier[6] = nn.Linear(32, 10)
    return randomize_batch_norms(model)


@pytest.fixture(scope="module", params=Fusion, ids=lambda fusion: fusion.name)
def graph(request: pytest.FixtureRequest, model: nn.Module) -> QuantGraph:
    return quantizable(model, request.param)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def test_same_output_as_the_original(model: nn.Module, graph: QuantGraph, images: torch.Tensor) -> None:
    expected, found = model(images), graph.module(images)
    if graph.fusion is Fusion.none:
        assert torch.equal(found, expected)
    else:
        torch.testing.assert_close(found, expected, rtol=0, atol=2e-5 * expected.abs().max().item())


def test_every_convolution_and_linear_layer_has_weight_and_input_on_a_grid(
    model: nn.Module, graph: QuantGraph, images: torch.Tensor
) -> None:
    layers = [path for path, module in model.named_modules() if isinstance(module, WEIGHTED)]
    assert sorted(point.module for point in graph.weights) == sorted(layers)
    assert [point.name for point in graph.weights] == [f"{point.module}.weight" for point in graph.weights]
    on_grid, output = run_on_coarse_grids(graph, images)
    assert on_grid == dict.fromkeys(layers, True)
    assert not is_coarse(output), "the output of the network must not be quantized"


def test_batch_norms_are_folded(request: pytest.FixtureRequest, graph: QuantGraph) -> None:
    left = [name for name, module in graph.module.named_modules() if isinstance(module, nn.BatchNorm2d)]
    if graph.fusion is Fusion.none:
        assert left or "convnext" in request.node.name
    elif any(name in request.node.name for name in FOLDS_ALL):
        assert not left


def test_names_are_unique_and_fit_mlflow(graph: QuantGraph) -> None:
    assert len(set(graph.names)) == len(graph.names)
    assert all(re.fullmatch(r"[A-Za-z0-9_\-./]+", name) for name in graph.names)
    nodes = {node.name for node in graph.module.graph.nodes}
    assert all({point.node, *point.readers} <= nodes and point.readers for point in graph.activations)


@torch.no_grad()
def test_putting_weights_on_their_grids_leaves_the_graph_alone(graph: QuantGraph) -> None:
    network = insert_at_points(graph, {})
    spec = QuantSpec(4, signed=True, symmetric=True, channel_axis=0)
    qparams = {}
    for point in graph.weights:
        weight = graph.module.get_parameter(point.name)
        qparams[point.name] = qparams_from_range(weight.flatten(1).amin(1), weight.flatten(1).amax(1), spec)
    before = copy.deepcopy(graph.module.state_dict())
    put_weights_on_grid(network, graph, qparams)
    for point in graph.weights:
        weight = network.get_parameter(point.name)
        assert torch.equal(weight, fake_quantize(weight, qparams[point.name]))
        assert not torch.equal(weight, graph.module.get_parameter(point.name))
    assert all(torch.equal(value, before[name]) for name, value in graph.module.state_dict().items())


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
def test_the_users_model_is_not_changed(fusion: Fusion) -> None:
    model = randomize_batch_norms(torchvision.models.shufflenet_v2_x0_5(weights=None)).train()
    model.stage2.eval()
    before = copy.deepcopy(model)
    run_on_coarse_grids(quantizable(model, fusion), torch.randn(1, 3, 64, 64))
    assert str(model) == str(before)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    expected = before.state_dict()
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
