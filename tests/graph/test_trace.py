"""Both ways from a model to an exported program, and what becomes of it."""

import copy
import math

import pytest
import torch
import torch.nn.functional as F
from networks import random_images
from torch import Tensor, nn

from quant_sweep.graph.trace import Calls, release_symbols, traced_for_many, traced_with_a_symbol

WAYS = pytest.mark.parametrize(
    "traced",
    [lambda own, x: traced_for_many(own, x, 100), traced_with_a_symbol],
    ids=["for many", "with a symbol"],
)


class Plain(nn.Module):
    """Reads a tensor that is neither parameter nor buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.factor = nn.Conv2d(3, 2, 1), torch.tensor([0.5, 2.0])

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * self.factor[:, None, None]


class Copying(nn.Module):
    """Runs Python that torch.export can run but not read."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        sizes = copy.deepcopy({"stride": memoryview(b"\x02")[0]})
        return F.max_pool2d(self.conv(x), **{"kernel_size": 2, **sizes})


class Variadic(nn.Module):
    def forward(self, *images: Tensor) -> Tensor:
        return images[0].flatten(1) * 2


class Bounded(nn.Module):
    """Refuses what is no batch, and batches of a size that nobody has."""

    def forward(self, x: Tensor) -> Tensor:
        if not 1 <= x.shape[0] <= 10_000:
            raise ValueError("no batch")
        return x.flatten(1) * 2


def tokens(count: int = 2) -> Tensor:
    return torch.randint(0, 7, (count, 5), generator=torch.Generator().manual_seed(count))


CASES = {
    "a tensor of no module": (Plain(), random_images),
    "Python that cannot be read": (Copying(), random_images),
    "any number of arguments": (Variadic(), random_images),
    "bounds": (Bounded(), random_images),
    "whole numbers": (nn.Embedding(7, 3), lambda count, *_: tokens(count)),
    "float64": (nn.Conv2d(3, 2, 1).double(), lambda *shape: random_images(*shape).double()),
}


@WAYS
@pytest.mark.parametrize("name", CASES)
@torch.no_grad()
def test_a_program_computes_what_the_model_does(name: str, traced) -> None:
    model, images = CASES[name]
    program = traced(copy.deepcopy(model).eval(), images(2, 3, 4, 4))
    (made,) = program.graph.output_node().args[0]
    assert made.meta["val"].dtype == model(images(2, 3, 4, 4)).dtype
    if traced is traced_with_a_symbol:
        for count in (2, 5):
            x = images(count, 3, 4, 4)
            torch.testing.assert_close(program.module()(x), model(x))


@WAYS
def test_the_shapes_of_a_program_are_taken_apart(traced) -> None:
    program = traced(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten()).eval(), random_images(2, 3, 4, 4))
    modes = [getattr(node.meta.get("val"), "fake_mode", None) for node in program.graph.nodes]
    shapes = {id(mode.shape_env): mode.shape_env for mode in modes if mode is not None and mode.shape_env is not None}
    assert any(vars(shape) for shape in shapes.values())
    release_symbols(program.graph)
    assert not any(vars(shape) for shape in shapes.values())


# -- calls of torch's functions --


@pytest.mark.parametrize("count", [1, 2, 5])
def test_calls_are_counted(count: int) -> None:
    x = torch.zeros(2)
    with Calls() as calls:
        for _ in range(count):
            torch.relu(x)
    assert calls.count == count


def run(count: int, most: float) -> None:
    with Calls(most):
        for _ in range(count):
            torch.relu(torch.zeros(2))


@pytest.mark.parametrize("most", [2, 4, 10])
def test_as_many_calls_as_are_allowed_are_run(most: int) -> None:
    run(most // 2, most)  # each makes a tensor and calls relu
    with pytest.raises(RuntimeError):
        run(most // 2 + 1, most)
    run(most, math.inf)


class InATurn(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        for _ in range(10):
            x = torch.relu(x)
        return x


def test_a_model_that_makes_more_calls_is_not_traced_for_many() -> None:
    model, x = InATurn(), random_images(2, 3, 4, 4)
    with torch.no_grad():
        traced_for_many(model, x, 10)
        with pytest.raises(RuntimeError, match="more calls"):
            traced_for_many(model, x, 9)
    assert type(model) is InATurn
