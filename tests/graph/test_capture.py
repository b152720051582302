"""Capture keeps the model's result through in-place operations and aliases, leaves the model alone, and refuses in one
line what it cannot take."""

import copy
import gc
import logging
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import Watched, graphs, random_images, randomize_batch_norms
from torch import Tensor, nn

from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, Graph, Network, capture, capture_float, insert_at_quantizers
from quant_sweep.graph.aten import MANY_IMAGES
from quant_sweep.graph.interpret import relative_difference
from quant_sweep.graph.program import graph_of
from quant_sweep.graph.trace import Calls, traced_for_many


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.last = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 1)
        self.relu, self.dropout = nn.ReLU(inplace=True), nn.Dropout(0.5)


class ModuleRead(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.last(self.relu(y)) + y  # y is overwritten by now


class ModuleCalledTwice(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.relu(self.conv(x)) - 0.5
        return self.last(self.relu(y)) + y


class Method(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        y.relu_()
        y.mul_(2).clamp_(max=1.5)
        return self.last(y) + y


class Function(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        z = F.relu(y, inplace=True)
        return self.last(y) + y * z


class Underscored(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        torch.relu_(y)
        return self.last(y) + y


class Augmented(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.conv(x))
        z = y
        y += x
        y -= 0.25
        y *= 2
        y /= x.abs() + 1
        return self.last(y) + z  # one tensor under two names


class OfTheInput(Net):
    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return self.last(self.relu(x)) + x


class BehindAnAlias(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.dropout(y)  # in evaluation mode y itself
        return self.last(self.relu(z)) + y


class BeforeAndAfter(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        before = self.last(y)
        return before + self.last(self.relu(input=y))


class SliceWritten(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y[:, 0] = 0.5
        y[:, 1:, ::2] *= 2
        return self.last(y)


class ChunkWritten(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        first, *_ = y.chunk(3, 1)
        first.relu_()
        return self.last(y) + y


class ViewWritten(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        flat = y.view(y.size(0), -1)
        flat.clamp_(-0.2, 0.3)
        return self.last(y) + flat.view_as(y)


class ViewTakenBefore(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        turned = y.transpose(2, 3)
        y.relu_()
        return self.last(turned)


class ViewOfTheResult(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).relu_()
        y[:, :1].add_(1)
        y.tanh_()
        return self.last(y)


class Out(Net):
    def forward(self, x: Tensor) -> Tensor:
        y, z = self.conv(x), torch.empty_like(x)
        torch.add(y, x, out=z)
        torch.clamp(z, 0, 1, out=y)
        return self.last(y) + z


class Masked(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.masked_fill_(y < 0, -0.1)
        y[y > 0.5] = 0.5
        return self.last(y)


class Copied(Net):
    def forward(self, x: Tensor) -> Tensor:
        y, z = self.conv(x), torch.zeros_like(x)
        z.copy_(y)
        y.zero_()
        return self.last(z) + y


class CopiedInto(Net):
    def forward(self, x: Tensor) -> Tensor:
        z = x.new_zeros(x.shape[0], 3, 10, 10)
        z[:, :, 1:-1, 1:-1] = self.conv(x)
        return self.last(z)


class Swapped(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        before = y[:, 0].clone()
        y[:, 0] = y[:, 1]
        y[:, 1] = before
        return self.last(y)


class AddedOnto(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = self.last(y)
        z += y
        y += z
        return self.last(y) + z


class OutOfAConvolution(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        z = y.detach()  # shares its memory
        y.add_(1)
        return self.last(z)


class Scattered(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y.index_add_(1, torch.tensor([2, 0]), x[:, :2])
        return self.last(y)


NETS = (
    ModuleRead, ModuleCalledTwice, Method, Function, Underscored, Augmented, OfTheInput, BehindAnAlias, BeforeAndAfter,
    SliceWritten, ChunkWritten, ViewWritten, ViewTakenBefore, ViewOfTheResult, Out, Masked, Copied, CopiedInto, Swapped,
    AddedOnto, OutOfAConvolution, Scattered,
)  # fmt: skip


@pytest.mark.parametrize("net", NETS)
@torch.no_grad()
def test_in_place_operations_keep_the_result(net: type[Net]) -> None:
    torch.manual_seed(0)
    model, x = randomize_batch_norms(net()), random_images(2, 3, 8, 8)
    expected = model(x.clone())
    given = x.clone()
    for graph in graphs(model, x).values():
        assert relative_difference(Network(graph.graph)(given), expected) < 1e-5

        # Nor may a tensor that was recorded at a quantizer change afterwards.
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        recorders = {
            q.name: lambda y, name=q.name, seen=seen: seen.setdefault(name, (y, y.clone()))[0]
            for q in graph.activations
        }
        assert relative_difference(insert_at_quantizers(graph, recorders)(given), expected) < 1e-5
        assert seen.keys() == recorders.keys()
        assert all(torch.equal(recorded, copied) for recorded, copied in seen.values())
    assert torch.equal(given, x), "nothing is overwritten"


def test_training_only_layers_are_gone() -> None:
    model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 3, 1), nn.Dropout2d(), nn.Sequential(nn.Identity(), nn.Dropout()))
    assert [node.name for node in capture_float(model, random_images()).graph.nodes] == ["1.output"]


def test_what_nobody_reads_is_gone() -> None:
    class Unread(Net):
        def forward(self, x: Tensor) -> Tensor:
            self.last(x)
            return self.conv(x)

    graph = capture_float(Unread(), random_images()).graph
    assert [node.name for node in graph.nodes] == ["conv.output"]
    assert list(graph.constants) == ["conv.weight", "conv.bias"]


# -- branches and arguments --


class Optional(Net):
    def forward(self, x: Tensor, mask: Tensor | None = None, scale: float = 2.0) -> Tensor:
        y = self.conv(x) * scale
        return y if mask is None else y * mask


class Variadic(Net):
    def forward(self, *images: Tensor, **flags: bool) -> Tensor:
        return self.conv(images[0]) if not flags else self.last(images[0])


class OnShapes(Net):
    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1] == 3 and x.size(2) > 4:
            x = F.max_pool2d(x, 2)
        for _ in range(x.dim() - 2):
            x = self.conv(x)
        return x if x.shape[-1] % 2 == 0 else self.last(x)


class OnAttributes(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) if not self.training and hasattr(self, "bn") else self.last(x)


class OnParameters(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if self.conv.bias is not None else self.last(x)


class UnderNoGrad(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = self.conv(x)
        with torch.enable_grad():
            z = self.last(y)
        return z + y


class InRegions(Net):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=False):
            y = self.conv(x)
            with torch.enable_grad():
                y.relu_()
                first, second, _ = y.chunk(3, 1)
        with torch.inference_mode():
            z = self.last(y)
        return z + first * second


class Checkpointed(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.utils.checkpoint.checkpoint(self.conv, x, use_reentrant=False))


class Counting(Net):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.conv(x)


class Hooked(Net):
    def __init__(self) -> None:
        super().__init__()
        self.conv.register_forward_hook(lambda _module, _args, y: y * 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x))


@pytest.mark.parametrize(
    "net",
    [Optional, Variadic, OnShapes, OnAttributes, OnParameters, UnderNoGrad, InRegions, Checkpointed, Counting, Hooked],
)
@torch.no_grad()
def test_branches_and_arguments_are_followed(net: type[Net]) -> None:
    model, x = randomize_batch_norms(net()), random_images()
    for graph in graphs(model, x).values():
        assert relative_difference(Network(graph.graph)(x), model(x)) < 1e-5
        assert relative_difference(Network(graph.graph)(x[:1]), model(x[:1])) < 1e-5


@pytest.mark.parametrize("count", [1, 2, 3, 9])
@torch.no_grad()
def test_any_number_of_images(count: int) -> None:
    """Sizes that count the images are not those of the example."""

    class Counts(Net):
        def forward(self, x: Tensor) -> Tensor:
            n = x.shape[0]
            y = self.conv(x).reshape(n * 3, 1, 8, 8).expand(n * 3, 2, 8, 8).reshape(n, 3, -1)
            token = torch.zeros(n, 3, 1) + torch.arange(3.0)[None, :, None].repeat(n, 1, 1)
            return torch.cat([token, y], 2).mean(2)

    model = Counts().eval()
    graph = capture_float(model, random_images(4, 3, 8, 8)).graph
    x = random_images(count, 3, 8, 8, seed=1)
    assert relative_difference(Network(graph)(x), model(x)) < 1e-5


# -- outputs --


@pytest.mark.parametrize(
    "returned",
    [
        lambda y: (y, y),
        lambda y: [y.relu(), (y,)],
        lambda y: {"logits": y, "features": {"mean": y.mean(2)}},
        lambda y: (y[:, 0], y.argmax(1)),
    ],
)
@torch.no_grad()
def test_outputs_keep_their_structure(returned) -> None:
    class Structured(Net):
        def forward(self, x: Tensor):
            return returned(self.conv(x))

    model, x = Structured().eval(), random_images()
    found, expected = Network(capture_float(model, x).graph)(x), model(x)
    assert type(found) is type(expected)
    assert str(torch.utils._pytree.tree_structure(found)) == str(torch.utils._pytree.tree_structure(expected))
    assert relative_difference(found, expected) < 1e-5


@torch.no_grad()
def test_the_input_itself_may_be_returned() -> None:
    class Passing(Net):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            return x, self.conv(x)

    x = random_images()
    for graph in graphs(Passing(), x).values():
        assert torch.equal(insert_at_quantizers(graph, {"input": torch.zeros_like})(x)[0], x)


# -- what is refused --


class Undecided(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


class Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(nn.Conv2d(3, 3, 1), Undecided())

    def forward(self, x: Tensor) -> Tensor:
        return self.blocks(x)


class TwoInputs(nn.Module):
    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return x + y


class ReturnsText(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return self.conv(x), "conv"


class ReturnsNothing(Net):
    def forward(self, x: Tensor) -> None:
        self.conv(x)


class ReturnsASize(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, int]:
        return self.conv(x), x.shape[0]


class ReturnsANumber(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).sum()


class ReturnsAParameter(Net):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x), self.conv.bias


class ForAnotherSize(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(-1, 3 * 7 * 7)


class EachAlone(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(image[None]) for image in x])


class InParts(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.conv(part) for part in x.split(2)])


class AListOfNumbers(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + torch.tensor([1.0 for _ in range(len(x))]).reshape(-1, 1, 1, 1)


class OtherwiseForMany(Net):
    """Which the few images that are compared would not show."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.shape[0] < 64 else self.last(self.last(x).repeat(1, 2, 1, 1))


class NotOneImage(Net):
    """BatchNorm of one value for each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.conv(x).mean((2, 3)), None, None, training=True)


class OnNumberOfImages(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) if x.shape[0] > 3 else self.last(x)


class NotTwoImages(Net):
    """Which only a batch of two shows."""

    def forward(self, x: Tensor) -> Tensor:
        if len(x) == 2:
            raise ValueError("\n  two images are too few\nand one is not")
        return self.conv(x)


class WithoutAWord(Net):
    def forward(self, x: Tensor) -> Tensor:
        if len(x) > 3:
            raise ArithmeticError
        return self.conv(x)


class Cond(Net):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cond(x.sum() > 0, lambda y: self.conv(y), lambda y: self.last(y), (x,))


@pytest.mark.parametrize(
    ("net", "said"),
    [
        (Undecided, "model=Undecided: cannot be captured"),
        (Inside, "model=Inside: cannot be captured .* control flow that depends on the values of tensors"),
        (TwoInputs, r"model=TwoInputs: has 2 inputs \(x, y\)"),
        (ReturnsText, "model=ReturnsText: returns str"),
        (ReturnsNothing, "model=ReturnsNothing: returns NoneType"),
        (ReturnsASize, "model=ReturnsASize: returns int"),
        (ReturnsANumber, "model=ReturnsANumber: returns a tensor of shape"),
        (ReturnsAParameter, "model=ReturnsAParameter: returns a tensor of shape"),
        (ForAnotherSize, r"model=ForAnotherSize: cannot compute inputs of shape \(4, 3, 8, 8\)"),
        (EachAlone, "model=EachAlone: cannot be captured .* sizes fixed to one batch"),
        (InParts, "model=InParts: cannot be captured .* sizes fixed to one batch"),
        (AListOfNumbers, "model=AListOfNumbers: cannot be captured .* sizes fixed to one batch"),
        (OtherwiseForMany, "model=OtherwiseForMany: cannot be captured"),
        (NotOneImage, r"model=NotOneImage: cannot compute inputs of shape \(1, 3, 8, 8\)"),
        (NotTwoImages, r"model=NotTwoImages: cannot compute inputs of shape \(2, 3, 8, 8\): two images are too few$"),
        (WithoutAWord, r"model=WithoutAWord: cannot compute inputs of shape \(4, 3, 8, 8\): ArithmeticError$"),
        (OnNumberOfImages, "model=OnNumberOfImages: its result for an image depends on the other images"),
        (Cond, "model=Cond: cannot be captured"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_refused_in_one_line(net: type[nn.Module], said: str) -> None:
    with pytest.raises(InputError, match=said) as error:
        capture(net(), random_images(), Fusion.none)
    assert "\n" not in str(error.value)


class CountedByLen(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).reshape(len(x), -1)


class OfEveryImage(Net):
    """Sizes that are multiples of the number of images, and a number that is none of it."""

    def forward(self, x: Tensor) -> Tensor:
        count = len(x)
        rows = self.conv(x).reshape(count * 6, -1) + torch.zeros(count * 6, 1)
        return rows.reshape(count, 6, -1).expand(count, 6, rows.shape[1])[:, :, : 2**31 - 1]


@pytest.mark.parametrize("net", [CountedByLen, OfEveryImage])
@pytest.mark.parametrize("count", [1, 2, 7])
def test_any_number_of_images_is_computed(net: type[Net], count: int) -> None:
    torch.manual_seed(0)
    model = net().eval()
    graph, x = capture(model, random_images(), Fusion.none), random_images(count, 3, 8, 8, seed=1)
    with torch.no_grad():
        torch.testing.assert_close(Network(graph.graph)(x), model(x))


def test_a_size_that_a_prime_of_ours_divides_is_no_number_of_images() -> None:
    """Of all sizes of the model, one that is the number that images are counted by while a model is traced."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, MANY_IMAGES), nn.Linear(MANY_IMAGES, 3))
    x = random_images(2, 3, 8, 8)
    with torch.no_grad():
        found = Network(capture(model, x, Fusion.none).graph)(x)
        torch.testing.assert_close(found, model(x))


def test_rounding_that_a_network_amplifies() -> None:
    """A network that makes a change of its images 100 times as large, relative to what it returns, and one that does
    not: noise of a millionth of the images' spread, counted ten times."""
    x = 8 * random_images(4, 3, 8, 8) + 792.0
    for model, times in ((nn.Conv2d(3, 4, 1, bias=False), 0.01), (Deviations(), 1.0)):
        with torch.no_grad():
            found = capture_float(model, x)._amplified_rounding()
        assert 0.2 * times < found / (10 * 1e-6) < 5 * times


class Deviations(nn.Module):
    """What is left of the images without their mean, which is a hundred times as large."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x - 792.0)


class OneNumberAnImage(Net):
    """Written with the number of images, as an operation of a tensor that has no other axis."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).flatten(1) * x.mean((1, 2, 3)).as_strided((x.shape[0], 1), (1, 1))


def test_an_operation_of_one_number_an_image_takes_any_number_of_them() -> None:
    model = OneNumberAnImage().eval()
    with torch.no_grad():
        network = Network(capture(model, random_images(2, 3, 8, 8), Fusion.none).graph)
        x = random_images(7, 3, 8, 8, seed=1)
        torch.testing.assert_close(network(x), model(x))


class Chance(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) + 0.01 * torch.randn_like(x)


class Dropping(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.dropout(self.conv(x), 0.5)  # `training` is true unless told


class Drawn(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * torch.rand(x.shape[0], 1, 1, 1)


class Centred(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x - x.mean(0))


class SoftmaxOfImages(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).softmax(0)


class SortedImages(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).sort(0)[0]


class MeanOfAll(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return y / y.std()


class NeighbouringImage(Net):
    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).roll(1, 0)


class Similarities(Net):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x).flatten(1)
        return (y @ y.t()) @ y


class InTraining(Net):
    def forward(self, x: Tensor) -> Tensor:
        return F.batch_norm(self.conv(x), None, None, training=True)


class WithoutStatistics(Net):
    def __init__(self) -> None:
        super().__init__()
        self.bn = nn.BatchNorm2d(3, track_running_stats=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x))


CROWDS = (
    Chance, Dropping, Drawn, Centred, SoftmaxOfImages, SortedImages, MeanOfAll, NeighbouringImage, Similarities,
    InTraining, WithoutStatistics,
)  # fmt: skip


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("net", CROWDS)
def test_what_sees_more_than_one_image_is_refused(net: type[Net], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    with pytest.raises(InputError, match=rf"^model={net.__name__}: .*depends on the other images of the batch, or on"):
        capture(net().to(dtype), random_images(), Fusion.none)


@torch.no_grad()
def test_a_network_that_sees_each_image_alone_is_not_refused() -> None:
    class PerImage(Net):
        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x - x.mean((1, 2, 3), keepdim=True))
            return F.instance_norm(y).flatten(1).sort(1)[0].softmax(1)

    graphs(PerImage(), random_images())


# -- the model --


def test_the_model_is_not_changed() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)).train()
    before = copy.deepcopy(model.state_dict())
    x = random_images()
    given = x.clone()
    network = Network(capture(model, x, Fusion.bn).graph)
    for buffer in network.buffers():
        buffer.zero_()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert torch.equal(x, given)


def test_one_image_is_example_enough() -> None:
    graph = capture(nn.Conv2d(3, 4, 3), random_images(1, 3, 8, 8), Fusion.none).graph
    assert graph.input_shape == (1, 3, 8, 8)
    assert graph.nodes[0].shape == (1, 4, 6, 6)


@pytest.mark.parametrize("shape", [(), (5,), (3, 8), (3, 8, 8)])
def test_of_one_image_two_different_ones_are_made(shape: tuple[int, ...]) -> None:
    example = random_images(1, *shape)
    captured = capture_float(PlusOne(), example)
    assert len(captured.images) == 2
    assert torch.equal(captured.images[:1], example)
    assert not torch.equal(captured.images[1:], example)
    assert torch.equal(captured.outputs, captured.images + 1)


class PlusOne(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + 1


@pytest.mark.parametrize(("given", "compared"), [(2, 2), (4, 4), (9, 4)])
def test_a_graph_is_held_against_the_model_on_the_first_images(given: int, compared: int) -> None:
    example = random_images(given, 3, 8, 8)
    captured = capture_float(PlusOne(), example)
    assert torch.equal(captured.images, example[:compared])
    assert torch.equal(captured.outputs, example[:compared] + 1)


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
@torch.no_grad()
def test_images_are_given_to_a_model_in_its_own_numbers(dtype: torch.dtype) -> None:
    model, example = nn.Conv2d(3, 4, 3), random_images(2, 3, 8, 8).to(dtype)
    captured = capture_float(model, example)
    assert torch.equal(captured.images, example.float())
    assert torch.equal(captured.outputs, model(example.float()))


def test_what_the_model_returned_is_kept_without_its_gradients() -> None:
    class WithGradients(Net):
        def forward(self, x: Tensor) -> Tensor:
            with torch.enable_grad():
                return self.last(self.conv(x))

    captured = capture_float(WithGradients(), random_images())
    assert not captured.outputs.requires_grad
    assert not any(constant.requires_grad for constant in captured.graph.constants.values())


def test_capture_draws_no_random_numbers() -> None:
    """It draws its own; those of the program are as they would be without it."""
    torch.manual_seed(0)
    model, x = Method().eval(), random_images()
    before = torch.get_rng_state()
    capture(model, x, Fusion.bn)
    assert torch.equal(torch.get_rng_state(), before)


class Bytes(Net):
    """Whole numbers are brightnesses from 0 to 255, others from 0 to 1."""

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x if x.is_floating_point() else x / 255)


@torch.no_grad()
def test_images_of_whole_numbers_are_given_to_the_model_as_they_are() -> None:
    model = Bytes()
    x = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    captured = capture_float(model, x)
    assert captured.images.dtype == torch.float32
    assert torch.equal(captured.outputs, model(x))
    torch.testing.assert_close(Network(captured.graph)(x.float()), model(x))


def test_a_mistake_in_capture_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(*program: Any) -> Graph:
        graph = graph_of(*program)
        return replace(graph, constants={name: 1.01 * value for name, value in graph.constants.items()})

    monkeypatch.setattr(sys.modules[capture_float.__module__], "graph_of", wrong)
    with pytest.raises(InputError, match=r"^model=Method: the captured network parts from the model by 0\.0"):
        capture_float(Method(), random_images())


# -- how it is traced --


@pytest.mark.parametrize(
    ("model", "x"),
    [
        (Method(), random_images()),
        (Method().double(), random_images()),
        (Method().half(), random_images()),
        (Bytes(), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)),
        (Copied(), random_images()),
        (InRegions(), random_images()),
        (nn.Sequential(*(nn.ReLU() for _ in range(120))), random_images(2, 3)),
    ],
)
def test_usual_networks_are_traced_with_numbers(model: nn.Module, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which takes a third of the time that symbols take."""

    def slow(*_: Any) -> None:
        raise AssertionError("traced with a symbol")

    monkeypatch.setattr(sys.modules[capture_float.__module__], "traced_with_a_symbol", slow)
    capture_float(model, x)


def test_a_program_for_many_images_takes_their_kind_of_numbers() -> None:
    for dtype in (torch.uint8, torch.float16, torch.float32):
        with torch.no_grad():
            program = traced_for_many(PlusOne(), torch.zeros(2, 3, dtype=dtype), 10)
        (given,) = (node.meta["val"] for node in program.graph.nodes if node.op == "placeholder")
        assert (tuple(given.shape), given.dtype) == ((MANY_IMAGES, 3), dtype)


class Sealed(nn.Module):
    """Of a class that no other is derived from, so that it can only be traced with a symbol."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = inside

    def __init_subclass__(cls) -> None:
        raise TypeError("no subclasses")

    def forward(self, x: Tensor) -> Tensor:
        logging.getLogger(__name__).debug("images of %s", x.dtype)  # which torch's compiler does not take
        return self.inside(x)


@pytest.mark.parametrize("inside", [Method, CopiedInto, ViewWritten])
@torch.no_grad()
def test_a_model_that_is_traced_with_a_symbol(inside: type[Net]) -> None:
    """As it is with numbers: the same operations, of the same shapes, for any number of images."""
    torch.manual_seed(0)
    model = inside().eval()
    one = random_images(1, 3, 8, 8)
    numbers, symbol = (capture_float(m, one).graph for m in (model, Sealed(model)))
    assert [(node.operation, node.shape) for node in symbol.nodes] == [(n.operation, n.shape) for n in numbers.nodes]
    for count in (1, 2, 7):
        x = random_images(count, 3, 8, 8, seed=1)
        torch.testing.assert_close(Network(symbol)(x), model(x.clone()))


def test_calls_are_counted_and_ended() -> None:
    x = torch.zeros(2)
    with Calls() as counted:
        for _ in range(7):
            torch.relu(x)
    assert counted.count == 7
    with Calls(3) as counted:
        for _ in range(3):
            torch.relu(x)
        with pytest.raises(RuntimeError):
            torch.relu(x)
    assert counted.count == 4


@torch.no_grad()
def test_the_slow_twin_reads_what_the_network_reads() -> None:
    """`Watched`, on which other tests rely."""
    model, x = randomize_batch_norms(Method()), random_images()
    for graph in graphs(model, x).values():
        functions = {q.name: lambda y: y * 2 for q in graph.activations}
        assert torch.equal(Watched(graph, functions)(x), insert_at_quantizers(graph, functions)(x))


class Token(nn.Module):
    """A parameter that is repeated for every image, as class tokens are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.token = nn.Conv2d(3, 6, 4, stride=4), nn.Parameter(torch.randn(1, 1, 6))

    def forward(self, x: Tensor) -> Tensor:
        rows = self.conv(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(x.shape[0], -1, -1), rows], 1)


@torch.no_grad()
def test_what_is_repeated_for_every_image_knows_how_many_there_are() -> None:
    model = Token()
    for graph in graphs(model, random_images()).values():
        for x in (random_images(5, 3, 8, 8), random_images(1, 3, 8, 8)):
            torch.testing.assert_close(Network(graph.graph)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("symbol", [False, True])
def test_nothing_of_an_export_stays(symbol: bool) -> None:
    """torch's symbolic shapes hold themselves where Python's collector does not look: 600 objects of each network."""
    usual = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    model = Sealed(usual) if symbol else usual

    def objects_after_a_capture() -> int:
        capture_float(model, torch.rand(2, 3, 8, 8))
        gc.collect()
        return len(gc.get_objects())

    _, before, _, after = (objects_after_a_capture() for _ in range(4))
    assert after - before < 2 * 300
