"""torchvision's architectures with random weights and random BatchNorm statistics, in all three fusions."""

import copy
import re

import pytest
import torch
from networks import WEIGHTED, graphs, is_coarse, norms, random_images, randomize_batch_norms, run_on_coarse_grids
from short_networks import short_network
from torch import nn

from quant_sweep.arithmetic.affine import fake_quantize, qparams_from_range
from quant_sweep.arithmetic.qparams import QuantSpec
from quant_sweep.graph import INPUT, Fusion, Network, QuantGraph, capture, weights_on_grid
from quant_sweep.graph.interpret import relative_difference

ARCHITECTURES = (
    "resnet18", "mobilenet_v2", "mobilenet_v3_small", "densenet121", "googlenet", "vgg11_bn", "efficientnet_b0",
    "shufflenet_v2_x0_5", "convnext_tiny",
)  # fmt: skip
FOLDS_ALL = {"resnet18", "mobilenet_v2", "mobilenet_v3_small", "googlenet", "vgg11_bn", "efficientnet_b0"}

# The first names of quantized activations, the last of them, and the first of weights: stored tables have them.
NAMES = {
    ("resnet18", Fusion.none): (
        "input bn1 relu layer1.0.bn1 layer1.0.relu layer1.0.add layer1.0.relu_1 layer1.1.bn1",
        "avgpool",
        "conv1 layer1.0.conv1 layer1.0.conv2",
    ),
    ("resnet18", Fusion.bn): (
        "input conv1 relu layer1.0.conv1 layer1.0.relu layer1.0.conv2 layer1.0.relu_1 layer1.1.conv1",
        "avgpool",
        "conv1 layer1.0.conv1 layer1.0.conv2",
    ),
    ("resnet18", Fusion.conv_bn_relu): (
        "input relu layer1.0.relu layer1.0.relu_1 layer1.1.relu layer1.1.relu_1 layer2.0.relu layer2.0.downsample.0",
        "avgpool",
        "conv1 layer1.0.conv1 layer1.0.conv2",
    ),
    ("mobilenet_v2", Fusion.bn): (
        "input features.0.0 features.0.2 features.1.conv.0.0 features.1.conv.0.2 features.1.conv.1",
        "adaptive_avg_pool2d",
        "features.0.0 features.1.conv.0.0 features.1.conv.1",
    ),
    ("mobilenet_v2", Fusion.conv_bn_relu): (
        "input features.0.2 features.1.conv.0.2 features.1.conv.1 features.2.conv.0.2 features.2.conv.1.2",
        "adaptive_avg_pool2d",
        "features.0.0 features.1.conv.0.0 features.1.conv.1",
    ),
    ("mobilenet_v3_small", Fusion.conv_bn_relu): (
        "input features.0.0 features.0.2 features.1.block.0.2 features.1.block.1.avgpool"
        " features.1.block.1.activation features.1.block.1.mul features.1.block.2.0",
        "classifier.1",
        "features.0.0 features.1.block.0.0 features.1.block.1.fc1 features.1.block.1.fc2",
    ),
    ("shufflenet_v2_x0_5", Fusion.conv_bn_relu): (
        "input conv1.2 stage2.0.branch1.0 stage2.0.branch1.4 stage2.0.branch2.2 stage2.0.branch2.3"
        " stage2.0.branch2.7 stage2.0.cat",
        "mean",
        "conv1.0 stage2.0.branch1.0 stage2.0.branch1.2",
    ),
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=ARCHITECTURES)
def model(request: pytest.FixtureRequest) -> nn.Module:
    model = short_network(request.param)
    model.architecture = request.param
    return randomize_batch_norms(model)


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return random_images(2, 3, 32, 32, seed=1)


@pytest.fixture(scope="module")
def all_graphs(model: nn.Module, images: torch.Tensor) -> dict[Fusion, QuantGraph]:
    return graphs(model, images)


@pytest.fixture(scope="module", params=Fusion, ids=lambda fusion: fusion.name)
def graph(request: pytest.FixtureRequest, all_graphs: dict[Fusion, QuantGraph]) -> QuantGraph:
    return all_graphs[request.param]


@torch.no_grad()
def test_same_output_as_the_original(model: nn.Module, graph: QuantGraph, images: torch.Tensor) -> None:
    assert relative_difference(Network(graph.graph)(images), model(images)) < 1e-5


def test_every_convolution_and_linear_layer_has_weight_and_input_on_a_grid(
    model: nn.Module, graph: QuantGraph, images: torch.Tensor
) -> None:
    layers = [path for path, module in model.named_modules() if isinstance(module, WEIGHTED)]
    assert sorted(q.name for q in graph.weights) == sorted(f"{path}.weight" for path in layers)
    on_grid, output = run_on_coarse_grids(graph, images)
    assert all(on_grid.values())
    assert len(on_grid) == len(layers)
    assert not is_coarse(output), "the output of the network must not be quantized"


def test_batch_norms_are_folded(model: nn.Module, graph: QuantGraph) -> None:
    if graph.fusion is Fusion.none:
        assert norms(graph) or model.architecture == "convnext_tiny"
    elif model.architecture in FOLDS_ALL:
        assert not norms(graph)


def test_names_are_unique_and_fit_mlflow(graph: QuantGraph) -> None:
    assert len(set(graph.names)) == len(graph.names)
    assert all(re.fullmatch(r"[A-Za-z0-9_\-./]+", name) for name in graph.names)
    assert all({q.name, *q.readers} <= {INPUT, *graph.graph.node} and q.readers for q in graph.activations)


def test_names_are_those_of_stored_tables(model: nn.Module, graph: QuantGraph) -> None:
    if (model.architecture, graph.fusion) in NAMES:
        first, last, weights = NAMES[model.architecture, graph.fusion]
        names = [q.name.removesuffix(".output") for q in graph.activations]
        assert names[: len(first.split())] == first.split()
        assert names[-1] == last
        assert [q.name.removesuffix(".weight") for q in graph.weights][: len(weights.split())] == weights.split()


def test_nothing_stays_in_float_unsaid(model: nn.Module, graph: QuantGraph) -> None:
    assert set(graph.float_weights) == set()
    matrices = {name for name, value in model.named_parameters() if sum(size > 1 for size in value.shape) > 1}
    assert matrices == {q.name for q in graph.weights}


@torch.no_grad()
def test_putting_weights_on_their_grids_leaves_the_graph_alone(graph: QuantGraph) -> None:
    spec = QuantSpec(4, signed=True, symmetric=True, channel_axis=0)
    qparams = {}
    for quantizer in graph.weights:
        weight = graph.graph.constants[quantizer.name]
        qparams[quantizer.name] = qparams_from_range(weight.flatten(1).amin(1), weight.flatten(1).amax(1), spec)
    before = {name: value.clone() for name, value in graph.graph.constants.items()}
    constants = weights_on_grid(graph, qparams).constants
    for quantizer in graph.weights:
        weight = constants[quantizer.name]
        assert torch.equal(weight, fake_quantize(weight, qparams[quantizer.name]))
        assert not torch.equal(weight, graph.graph.constants[quantizer.name])
    assert all(torch.equal(value, before[name]) for name, value in graph.graph.constants.items())


@pytest.mark.parametrize("fusion", Fusion, ids=lambda fusion: fusion.name)
def test_the_users_model_is_not_changed(fusion: Fusion) -> None:
    model = randomize_batch_norms(short_network("shufflenet_v2_x0_5")).train()
    model.stage2.eval()
    before = copy.deepcopy(model)
    run_on_coarse_grids(capture(model, random_images(2, 3, 32, 32), fusion), torch.randn(1, 3, 32, 32))
    assert str(model) == str(before)
    assert [m.training for m in model.modules()] == [m.training for m in before.modules()]
    expected = before.state_dict()
    assert list(model.state_dict()) == list(expected)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
