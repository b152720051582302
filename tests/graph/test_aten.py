"""What is read off the nodes of an exported program, and what operators become."""

import operator

import pytest
import torch
import torch.nn.functional as F
from networks import random_images
from torch import Tensor, fx, nn
from torch.export import export
from torch.fx.experimental.symbolic_shapes import ShapeEnv

from quant_sweep.errors import InputError
from quant_sweep.graph.aten import MANY_IMAGES, base_name, per_axis, same_as_input, times_images
from quant_sweep.graph.normalize import _pure


def last_node(operation) -> fx.Node:
    """Of a program that is an operation of a convolution's output."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return operation(self.conv(x))

    with torch.no_grad():
        graph = export(Net().eval(), (random_images(2, 3, 8, 8),), strict=False).graph
    (made,) = graph.output_node().args[0]
    assert isinstance(made, fx.Node)
    return made


@pytest.mark.parametrize(
    ("operation", "same"),
    [
        *((lambda y: F.dropout(y, 0.5, training=False), True), (lambda y: F.dropout(y, 0.5, training=True), False)),
        *((lambda y: y.to(torch.float64), True), (lambda y: y.to(torch.int32), False)),
        *((lambda y: y[:, :4], True), (lambda y: y[:, :3], False), (lambda y: y[:, :, ::2], False)),
        *(
            (lambda y: torch.ops.aten.slice.Tensor(y, 1, 0, 4), True),
            (lambda y: torch.ops.aten.slice.Tensor(y, 1, 1), False),
        ),
        *((lambda y: y.reshape(2, 4, 8, 8), True), (lambda y: y.reshape(2, 4, 64), False)),
        *((lambda y: y.expand(2, -1, 8, 8), True), (F.relu, False)),
        *((lambda y: y.view(torch.int32), False), (lambda _: torch.zeros(4), False)),
    ],
)
def test_what_passes_a_tensor_on_unchanged(operation, same: bool) -> None:
    node = last_node(operation)
    assert (same_as_input(node) is not None) == same


def test_operators_in_the_form_that_writes_over_nothing() -> None:
    aten = torch.ops.aten
    x = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])
    for function, arguments in ((aten.relu_.default, ()), (aten.add_.Tensor, (x,)), (aten.clamp_.default, (0.0, 1.0))):
        wanted, given = function(x.clone(), *arguments), x.clone()
        assert torch.equal(_pure(function)(given, *arguments), wanted)
        assert torch.equal(given, x)
    assert _pure(aten.view.default)(x.t(), (4,)).tolist() == [-1.0, 3.0, 2.0, -4.0]  # in no layout of its own
    assert _pure(aten.view.dtype)(x, torch.int32).dtype == torch.int32
    assert _pure(torch.relu) is torch.relu


@pytest.mark.parametrize(
    ("operation", "name"),
    [(F.relu, "relu"), (F.relu_, "relu"), (lambda y: y.chunk(2, 1)[1], "getitem"), (lambda y: y.max(1)[0], "getitem")],
)
def test_the_name_of_an_operator(operation, name: str) -> None:
    assert base_name(last_node(operation)) == name


def test_the_name_of_what_is_given_is_its_own() -> None:
    graph = fx.Graph()
    assert base_name(graph.placeholder("images")) == "images"
    assert base_name(graph.call_function(operator.add, (1, 2))) == "add"


@pytest.mark.parametrize(
    ("value", "axes", "expected"),
    [(2, 1, (2,)), (2, 3, (2, 2, 2)), ([2], 3, (2, 2, 2)), ([1, 2], 2, (1, 2)), ([4, 5, 6], 3, (4, 5, 6))],
)
def test_one_number_for_each_axis(value: int | list[int], axes: int, expected: tuple[int, ...]) -> None:
    assert per_axis(value, axes) == expected


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        *((0, (0, False)), (1, (1, False)), (7, (7, False)), (MANY_IMAGES - 1, (MANY_IMAGES - 1, False))),
        *((MANY_IMAGES, (1, True)), (6 * MANY_IMAGES, (6, True)), (6 * MANY_IMAGES + 1, (6 * MANY_IMAGES + 1, False))),
    ],
)
def test_which_sizes_count_images(size: int, expected: tuple[int, bool]) -> None:
    found = times_images(size)
    assert found == expected
    assert tuple(map(type, found)) == (int, bool)


def test_which_symbolic_sizes_count_images() -> None:
    shapes = ShapeEnv()
    images, others = shapes.create_unbacked_symint(), shapes.create_unbacked_symint()
    assert [times_images(size) for size in (images, 6 * images)] == [(1, True), (6, True)]
    number = images * 0 + 7
    assert times_images(number) == (7, False)
    for size in (images + 1, images // 2, images * images, images + others, images * others):
        with pytest.raises(InputError, match="is not in proportion to their number"):
            times_images(size)
