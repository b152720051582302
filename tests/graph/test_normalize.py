"""Which record each spelling becomes, with which numbers, and what is used otherwise than a record knows it.

Engines, which compute all records, are held in `test_operations_contract`."""

import copy
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import called, random_images
from one_operation import Weights
from torch import Tensor, nn
from torch.export import ExportedProgram

from quant_sweep.graph import Graph, Network, capture_float
from quant_sweep.graph.functional import functional, inlined
from quant_sweep.graph.operations import (
    Activation,
    AdaptiveAveragePool,
    AdaptiveMaxPool,
    Add,
    AveragePool,
    BatchNorm,
    ChannelAffine,
    Clamp,
    Concatenate,
    Convolution,
    Linear,
    MaxPool,
    Mean,
    Move,
    Operation,
    Other,
    Pad,
    Reshape,
)
from quant_sweep.graph.program import graph_of
from quant_sweep.graph.trace import traced_for_many, traced_with_a_symbol


class Spelled(Weights):
    """What is written of the images; `m`, where it is read, holds parameters."""

    def __init__(self, spelled: Callable[..., Any], **shapes: tuple[int, ...]) -> None:
        super().__init__(1, **shapes)
        self.spelled = spelled

    def forward(self, x: Tensor) -> Any:
        return called(self.spelled, self, x)


@torch.no_grad()
def captured(spelled: Callable[..., Any], shape: tuple[int, ...], **shapes: tuple[int, ...]) -> Graph:
    """The graph, which computes what was written for any number of images."""
    torch.manual_seed(0)
    model = Spelled(spelled, **shapes).eval()
    graph = capture_float(model, random_images(3, *shape)).graph
    _check_results(graph, model, shape)
    return graph


def _check_results(graph: Graph, model: nn.Module, shape: tuple[int, ...]) -> None:
    for count in (1, 5):
        x = random_images(count, *shape, seed=count)
        torch.testing.assert_close(Network(graph)(x), model(x.clone()), rtol=1e-4, atol=1e-5)


RECORDS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...], dict[str, tuple[int, ...]], Operation]] = {
    "conv1d": (
        lambda m, x: F.conv1d(x, m.w, m.b, 2, 1),
        (8, 12),
        {"w": (6, 8, 3), "b": (6,)},
        Convolution((2,), ((1, 1),), (1,)),
    ),
    "conv2d, every axis by itself": (
        lambda m, x: F.conv2d(x, m.w, None, (2, 1), (2, 0), (3, 1)),
        (8, 9, 8),
        {"w": (6, 8, 3, 2)},
        Convolution((2, 1), ((2, 2), (0, 0)), (3, 1)),
    ),
    "conv2d, lists of one number": (
        lambda m, x: F.conv2d(x, m.w, None, (2,), (1,), (3,), groups=4),
        (8, 9, 8),
        {"w": (12, 2, 3, 2)},
        Convolution((2, 2), ((1, 1), (1, 1)), (3, 3), 4),
    ),
    "conv2d same": (  # 3 and 4 zeros along the axes; of the odd one more behind
        lambda m, x: F.conv2d(x, m.w, None, 1, "same", (1, 2)),
        (8, 9, 8),
        {"w": (6, 8, 4, 3)},
        Convolution((1, 1), ((1, 2), (2, 2)), (1, 2)),
    ),
    "conv1d valid": (
        lambda m, x: F.conv1d(x, m.w, None, 2, "valid", 2),
        (8, 12),
        {"w": (6, 8, 3)},
        Convolution((2,), ((0, 0),), (2,)),
    ),
    "conv3d": (
        lambda m, x: F.conv3d(x, m.w, None, 1, (1, 0, 1), 1),
        (4, 3, 4, 3),
        {"w": (6, 4, 2, 2, 2)},
        Convolution((1, 1, 1), ((1, 1), (0, 0), (1, 1)), (1, 1, 1)),
    ),
    "conv_transpose2d": (
        lambda m, x: F.conv_transpose2d(x, m.w, m.b, (2, 3), (1, 0), (1, 2), 2, (1, 2)),
        (8, 5, 4),
        {"w": (8, 3, 3, 2), "b": (6,)},
        Convolution((2, 3), ((1, 1), (0, 0)), (1, 2), 2, True, (1, 2)),
    ),
    "conv_transpose1d": (
        lambda m, x: F.conv_transpose1d(x, m.w),
        (8, 5),
        {"w": (8, 3, 3)},
        Convolution((1,), ((0, 0),), (1,), 1, True, (0,)),
    ),
    "torch.convolution": (
        lambda m, x: torch.convolution(x, m.w, m.b, [1, 2], [1, 0], [1, 2], False, [0, 0], 2),
        (8, 9, 8),
        {"w": (6, 4, 3, 3), "b": (6,)},
        Convolution((1, 2), ((1, 1), (0, 0)), (1, 2), 2),
    ),
    "torch.convolution, transposed": (
        lambda m, x: torch.convolution(x, m.w, None, [2, 2], [1, 0], [1, 1], True, [1, 0], 2),
        (8, 5, 4),
        {"w": (8, 3, 3, 3)},
        Convolution((2, 2), ((1, 1), (0, 0)), (1, 1), 2, True, (1, 0)),
    ),
    "linear": (lambda m, x: F.linear(x, m.w, m.b), (8,), {"w": (6, 8), "b": (6,)}, Linear()),
    "linear without bias": (lambda m, x: F.linear(x, m.w), (5, 8), {"w": (6, 8)}, Linear()),
    "addmm": (lambda m, x: torch.addmm(m.b, x, m.w), (8,), {"w": (8, 6), "b": (6,)}, Linear()),
    "matmul": (lambda m, x: x @ m.w, (5, 8), {"w": (8, 6)}, Linear()),
    "mm": (lambda m, x: x.mm(m.w), (8,), {"w": (8, 6)}, Linear()),
    "einsum, (in, out)": (lambda m, x: torch.einsum("nlc,ck->nlk", x, m.w), (5, 8), {"w": (8, 6)}, Linear()),
    "einsum, (out, in)": (lambda m, x: torch.einsum("nc, kc -> nk", x, m.w), (8,), {"w": (6, 8)}, Linear()),
    "einsum, the weight first": (lambda m, x: torch.einsum("ck,nc->nk", m.w, x), (8,), {"w": (8, 6)}, Linear()),
    "einsum of a square": (lambda m, x: torch.einsum("nlc,kc->nlk", x, m.w), (8, 8), {"w": (8, 8)}, Linear()),
    "batch_norm without gamma and beta": (
        lambda m, x: F.batch_norm(x, m.mean, m.mean.square() + 0.5, momentum=0.3, eps=0.02),
        (8, 4),
        {"mean": (8,)},
        BatchNorm(0.02, 0.3),
    ),
    "batch_norm without beta": (
        lambda m, x: F.batch_norm(x, m.mean, m.mean.square() + 0.5, m.gamma),
        (8, 4, 4),
        {"mean": (8,), "gamma": (8,)},
        BatchNorm(1e-5, 0.1),
    ),
    "batch_norm without gamma": (
        lambda m, x: F.batch_norm(x, m.mean, m.mean.square() + 0.5, bias=m.beta),
        (8,),
        {"mean": (8,), "beta": (8,)},
        BatchNorm(1e-5, 0.1),
    ),
    "relu": (lambda x: x.relu(), (8,), {}, Clamp(0.0, math.inf)),
    "relu6": (lambda x: F.relu6(x), (8,), {}, Clamp(0.0, 6.0)),
    "hardtanh": (lambda x: F.hardtanh(x, -0.25, 0.5), (8,), {}, Clamp(-0.25, 0.5)),
    "clamp": (lambda x: x.clamp(-1, 0.5), (8,), {}, Clamp(-1.0, 0.5)),
    "clip from below": (lambda x: x.clip(0.25), (8,), {}, Clamp(0.25, math.inf)),
    "clip from above": (lambda x: x.clip(max=0.25), (8,), {}, Clamp(-math.inf, 0.25)),
    "clamp_min": (lambda x: x.clamp_min(0.25), (8,), {}, Clamp(0.25, math.inf)),
    "clamp_max": (lambda x: x.clamp_max(0.25), (8,), {}, Clamp(-math.inf, 0.25)),
    "threshold": (lambda x: F.threshold(x, 0.25, 0.25), (8,), {}, Clamp(0.25, math.inf)),
    "add": (lambda x: x + x, (8,), {}, Add()),
    "+ per channel": (lambda m, x: m.a[:, None] + x, (8, 5), {"a": (8,)}, ChannelAffine(1)),
    "* and - per channel, of two": (lambda m, x: m.a * x - m.b, (5, 2), {"a": (2,), "b": (2,)}, ChannelAffine(2)),
    "/ and + per channel": (
        lambda m, x: x / (m.a.square() + 1) + m.b,
        (8, 1, 5),
        {"a": (8, 1, 1), "b": (8, 1, 1)},
        ChannelAffine(1),
    ),
    "avg_pool1d": (
        lambda x: F.avg_pool1d(x, 3, 2, 1, True, False),
        (8, 12),
        {},
        AveragePool((3,), (2,), (1,), True, False, None),
    ),
    "avg_pool2d": (
        lambda x: F.avg_pool2d(x, (2, 3), (1, 2), (1, 0), divisor_override=5),
        (8, 9, 8),
        {},
        AveragePool((2, 3), (1, 2), (1, 0), False, True, 5),
    ),
    "avg_pool2d, lists of one number": (
        lambda x: F.avg_pool2d(x, (3,), (2,), (1,)),
        (8, 9, 8),
        {},
        AveragePool((3, 3), (2, 2), (1, 1), False, True, None),
    ),
    "avg_pool3d, strides of the kernel": (
        lambda x: F.avg_pool3d(x, (2, 1, 3)),
        (4, 4, 3, 6),
        {},
        AveragePool((2, 1, 3), (2, 1, 3), (0, 0, 0), False, True, None),
    ),
    "adaptive_avg_pool1d": (lambda x: F.adaptive_avg_pool1d(x, 4), (8, 9), {}, AdaptiveAveragePool((4,))),
    "adaptive_avg_pool2d": (
        lambda x: F.adaptive_avg_pool2d(x, (2, None)),
        (8, 9, 8),
        {},
        AdaptiveAveragePool((2, 8)),
    ),
    "adaptive_avg_pool3d": (
        lambda x: F.adaptive_avg_pool3d(x, (1, 3, 2)),
        (4, 4, 3, 6),
        {},
        AdaptiveAveragePool((1, 3, 2)),
    ),
    "mean": (lambda x: x.mean((-1, 1), keepdim=True), (8, 9, 8), {}, Mean((1, 3), True)),
    "mean of one axis": (lambda x: x.mean(-2), (8, 9, 8), {}, Mean((2,), False)),
    "max_pool1d": (
        lambda x: F.max_pool1d(x, 3, 2, 1, 2, True),
        (8, 12),
        {},
        MaxPool((3,), (2,), (1,), (2,), True),
    ),
    "max_pool2d": (
        lambda x: F.max_pool2d(x, (2, 3), (1, 2), (1, 0), (2, 1)),
        (8, 9, 8),
        {},
        MaxPool((2, 3), (1, 2), (1, 0), (2, 1), False),
    ),
    "max_pool2d, lists of one number": (
        lambda x: F.max_pool2d(x, (3,), (2,), (1,), (2,)),
        (8, 9, 8),
        {},
        MaxPool((3, 3), (2, 2), (1, 1), (2, 2), False),
    ),
    "max_pool3d, strides of the kernel": (
        lambda x: F.max_pool3d(x, (2, 1, 3)),
        (4, 4, 3, 6),
        {},
        MaxPool((2, 1, 3), (2, 1, 3), (0, 0, 0), (1, 1, 1), False),
    ),
    "adaptive_max_pool1d": (lambda x: F.adaptive_max_pool1d(x, 4), (8, 9), {}, AdaptiveMaxPool((4,))),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), (8, 9, 8), {}, AdaptiveMaxPool((2, 3))),
    "cat": (lambda x: torch.cat([x, x, x], -1), (8, 5), {}, Concatenate(2)),
    "pad": (lambda x: F.pad(x, (1, -2, 0, 3)), (8, 9, 8), {}, Pad((1, -2, 0, 3))),
    "constant_pad_nd": (lambda x: torch.constant_pad_nd(x, (2, 0, 1, 0)), (8, 9), {}, Pad((2, 0, 1, 0))),
    "pad with None": (lambda x: F.pad(x, (1, 2), value=None), (8, 9), {}, Pad((1, 2))),
    "flatten": (lambda x: x.flatten(1), (8, 9), {}, Reshape((-1, 72))),
    "view of more rows": (lambda x: x.view(-1, 9).view(-1, 8, 9), (8, 9), {}, Reshape((-1, 9))),
    "unsqueeze before the images": (lambda x: x.unsqueeze(0)[0], (8,), {}, Reshape((1, -1, 8))),
}


@pytest.mark.parametrize("name", RECORDS)
def test_record(name: str) -> None:
    spelled, shape, shapes, record = RECORDS[name]
    assert captured(spelled, shape, **shapes).nodes[0].operation == record


KINDS: dict[str, tuple[Callable[..., Any], tuple[int, ...], list[type[Operation]]]] = {
    "tanh of a GELU": (lambda x: F.gelu(x, approximate="tanh"), (8, 4), [Activation]),
    "activation": (lambda m, x: F.prelu(x, m.c), (8, 4), [Activation]),
    "activation by computed numbers": (lambda x: F.prelu(x.t(), x[:, 0]).t(), (8,), [Move, Move, Other, Move]),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), (8, 4), [Move]),
    "index by constants": (lambda x: x[:, [2, 0, 0]], (8, 4), [Move]),
    "index by what is computed": (
        lambda x: x[torch.arange(x.shape[0]), x.argmax(1)],
        (8,),
        [Other, Other, Other],
    ),
    "reflection": (lambda x: F.pad(x, (2, 1), "reflect"), (8, 4), [Move]),
    "padding with a number": (lambda x: F.pad(x, (2, 1), value=0.5), (8, 4), [Other]),
    "avg_pool2d of channels as images": (lambda x: F.avg_pool2d(x, 2), (8, 4), [Other]),
    "max_pool2d of channels as images": (lambda x: F.max_pool2d(x, 2), (8, 4), [Other]),
    "adaptive_avg_pool2d of channels as images": (lambda x: F.adaptive_avg_pool2d(x, 2), (8, 4), [Other]),
    "adaptive_avg_pool1d of channels as images": (lambda x: F.adaptive_avg_pool1d(x, 2), (8,), [Other]),
    "adaptive_max_pool1d of channels as images": (
        lambda x: F.adaptive_max_pool1d(x, 2),
        (8,),
        [Other, Other],
    ),
    "mean of axis 0, which is that of channels": (lambda x: x.transpose(0, 1).mean(0), (8, 4), [Move, Other]),
    "mean of whole numbers": (lambda x: x.argmax(1).mean(1, dtype=torch.float32), (8, 4), [Other, Other]),
    "cat with whole numbers": (lambda x: torch.cat([x, x.argmax(1, True)], 1), (8, 4), [Other, Other]),
    "view of whole numbers": (lambda x: x.argmax(1).view(-1, 2, 2).float(), (8, 4), [Other, Other, Other]),
    "addmm, beta": (lambda m, x: torch.addmm(m.c, x, m.square, beta=2), (8,), [Other]),
    "addmm, alpha": (lambda m, x: torch.addmm(m.c, x, m.square, alpha=2), (8,), [Other]),
    "addmm of a matrix more": (lambda m, x: torch.addmm(m.square[:1], x, m.square), (8,), [Other]),
    "addmm of what is computed": (lambda m, x: torch.addmm(x, x, m.square), (8,), [Other]),
    "a vector as weight": (lambda m, x: F.linear(x, m.c), (8,), [Other]),
    "a product with a vector": (lambda m, x: x @ m.c, (4, 8), [Other]),
    "computed numbers as weight": (lambda m, x: F.linear(m.square, x).t(), (8,), [Other, Move]),
    "a bias that is computed": (
        lambda m, x: F.linear(x, m.square, m.c * torch.ones(x.shape[0]).mean()),
        (8,),
        [Other, Other, Other, Other],
    ),
    "a bias of addmm that is computed": (
        lambda m, x: torch.addmm(m.c * torch.ones(x.shape[0]).mean(), x, m.square),
        (8,),
        [Other, Other, Other, Other],
    ),
    "a bias of a convolution that is computed": (
        lambda m, x: F.conv1d(x, m.square[:, :, None], m.c * torch.ones(x.shape[0]).mean()),
        (8, 4),
        [Other, Other, Other, Other],
    ),
    "images as the axis of a convolution": (
        lambda m, x: F.conv1d(x.t(), m.square[:, :, None]).t(),
        (8,),
        [Move, Other, Move],
    ),
    "batch_norm by computed statistics": (
        lambda x: F.batch_norm(x[None], x.mean(1), x.var(1))[0],
        (8,),
        [Reshape, Mean, Other, Other, Move],
    ),
    "batch_norm of each image, in training": (
        lambda x: F.batch_norm(x[None], None, None, training=True)[0],
        (8,),
        [Reshape, Other, Move],
    ),
    "a weight that batch_norm normalises as in training": (
        lambda m, x: F.linear(x, F.batch_norm(m.square, m.c.clone(), m.c.square(), training=True)),
        (8,),
        [Linear],
    ),
    "batch_norm by gamma for each image": (
        lambda m, x: F.batch_norm(x.t(), m.c[:1].expand(x.shape[0]), m.c[1:2].square().expand(x.shape[0]), x[:, 0]).t(),
        (8,),
        [Move, Move, Move, Move, Other, Move],
    ),
    "a bias for each image": (lambda m, x: F.linear(x, m.square, x), (8,), [Other]),
    "images as weights of a convolution": (lambda m, x: F.conv1d(m.square[None], x)[0], (8, 3), [Other, Move]),
    "threshold to another value": (lambda x: F.threshold(x, 0.25, 0.5), (8,), [Other]),
    "clamp between tensors": (lambda m, x: x.clamp(max=m.c), (8,), [Other]),
    "clamp of whole numbers": (lambda x: x.argmax(1).clamp(1, 2).float(), (8, 4), [Other, Other, Other]),
    "bits of whole numbers read as numbers": (
        lambda x: (x.view(torch.int32) & 0x7FFFFFFF).view(torch.float32),
        (8,),
        [Other, Other, Other],
    ),
    "rows that are read out of memory": (lambda x: x.as_strided((x.shape[0], 3), (8, 2), 1), (8,), [Other]),
    "sum of twice": (lambda x: torch.add(x, x, alpha=2), (8,), [Other]),
    "sum with whole numbers": (lambda x: x + x.argmax(1, True), (8, 4), [Other, Other]),
    "product of two": (lambda x: x * x, (8,), [Other]),
    "+ a number": (lambda x: x + 0.5, (8,), [Other]),
    "numbers per channel - what is computed": (lambda m, x: m.c - x, (8,), [Other]),
    "numbers per channel / what is computed": (lambda m, x: m.c / (x.square() + 1), (8,), [Other, Other, Other]),
    "+ of one number for all": (lambda m, x: x + m.c[:1], (8,), [Other]),
    "along two axes one after the other": (
        lambda m, x: x + m.c[:, None] + m.c[:5],
        (8, 5),
        [ChannelAffine, ChannelAffine],
    ),
    "product per channel": (lambda m, x: x * m.c, (4, 8), [Other]),
    "division rounded down, and + per channel": (
        lambda m, x: torch.div(x, m.c, rounding_mode="floor") + m.c,
        (8,),
        [Other, ChannelAffine],
    ),
    "twice per channel subtracted": (lambda m, x: torch.sub(x, m.c, alpha=2), (8,), [Other]),
    "one channel + as many as there are numbers": (lambda m, x: x[:, :1] + m.c, (8,), [Move, Other]),
    "+ per image": (lambda m, x: (x.t() + m.c[:, None]).t(), (8,), [Move, Other, Move]),
    "+ for each place": (lambda m, x: x + m.square, (8, 8), [Other]),
    "einsum of other axes": (lambda m, x: torch.einsum("ncl,kc->nkl", x, m.square), (8, 4), [Other]),
    "einsum of the result's axes in another order": (
        lambda m, x: torch.einsum("nlc,kc->nkl", x, m.square),
        (4, 8),
        [Other],
    ),
    "einsum of a diagonal": (lambda m, x: torch.einsum("ncc,ck->nck", x, m.square), (8, 8), [Other]),
    "einsum of a sum over both": (lambda m, x: torch.einsum("nc,kd->nk", x, m.square), (8,), [Other]),
    "einsum with points": (lambda m, x: torch.einsum("...c,ck->...k", x, m.square), (4, 8), [Other]),
    "einsum without result": (lambda m, x: torch.einsum("ac,cb", x, m.square), (8,), [Other]),
    "einsum of three": (lambda m, x: torch.einsum("nc,ck,k->nk", x, m.square, m.c), (8,), [Other]),
    "einsum with a vector": (lambda m, x: torch.einsum("nc,c->n", x, m.c), (8,), [Other]),
    "einsum of one number": (
        lambda m, x: torch.einsum(",cc->c", torch.ones(x.shape[0]).mean(), m.square) + x,
        (8,),
        [Other, Other, Other, Add],
    ),
    "both tensors of a pooling": (
        lambda x: F.max_pool2d(x, 2, return_indices=True),
        (8, 4, 4),
        [Other, Other, Other],
    ),
    "the indices of a pooling": (
        lambda x: F.max_pool2d(x, 2, return_indices=True)[1],
        (8, 4, 4),
        [Other, Other],
    ),
    "the largest of a sort": (lambda x: x.sort(1)[0], (8,), [Other, Other]),
    "the places of a sort": (lambda x: x.sort(1)[1], (8,), [Other, Other]),
    "a chunk": (lambda x: x.chunk(3, -1)[2], (8,), [Move]),
    "unbind of images": (lambda x: x.t().unbind(0)[3], (8,), [Move, Other, Other]),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str) -> None:
    spelled, shape, kinds = KINDS[name]
    graph = captured(spelled, shape, c=(8,), square=(8, 8))
    assert [type(node.operation) for node in graph.nodes] == kinds, graph.described()


DECOMPOSED = ("conv2d, every axis by itself", "linear", "batch_norm without beta", "mean", "max_pool2d", "pad")


@pytest.mark.parametrize("name", DECOMPOSED)
def test_the_record_is_the_same_in_a_program_that_torch_decomposes(name: str) -> None:
    """As it does where a view is written over, and has other operators for some."""
    spelled, shape, shapes, record = RECORDS[name]

    def behind_a_written_view(m: Spelled, x: Tensor) -> Tensor:
        y = x.clone()
        y[:, :1].mul_(2)
        made: Tensor = called(spelled, m, y)
        return made

    assert record in [node.operation for node in captured(behind_a_written_view, shape, **shapes).nodes]


# -- what depends on the number of images --

COUNTED: dict[str, Callable[..., Tensor]] = {
    "zeros": lambda x: x + torch.zeros(x.shape[0], 1),
    "integers": lambda x: x * torch.ones(x.shape[0], 8, dtype=torch.int64),
    "zeros of twice as many": lambda x: (torch.zeros(2 * x.shape[0], 4) + x.view(2 * x.shape[0], -1)).view(
        x.shape[0], -1
    ),
    "halves, repeated": lambda x: x.view(-1, 1, 4).expand(2 * x.shape[0], 3, 4).reshape(x.shape[0], -1),
    "a parameter, repeated": lambda m, x: m.c.expand(x.shape[0], 8) + x,
    "a parameter, tiled": lambda m, x: m.c.repeat(x.shape[0], 1) + x,
    "one number, repeated": lambda m, x: m.c.sum().expand(x.shape[0], 8) + x,
    "a number, repeated for each image": lambda x: x.mean(1).expand(3, x.shape[0]).t(),
    "places": lambda x: x + (torch.arange(x.shape[0]) >= 0)[:, None],
    "like the images": lambda x: x + torch.ones_like(x, device=x.device),
    "a number": lambda x: (x * x.shape[0] + x.shape[0]) / x.shape[0] - 1,
    "a matrix of images and images": lambda x: (torch.eye(x.shape[0])[:, :, None] * x[None]).sum(1),
}


@pytest.mark.parametrize("trace", [lambda own, x: traced_for_many(own, x, 1000), traced_with_a_symbol])
@pytest.mark.parametrize("name", COUNTED)
@torch.no_grad()
def test_numbers_of_images(name: str, trace: Callable[[nn.Module, Tensor], ExportedProgram]) -> None:
    """Both ways of tracing find which sizes count the images; nothing is made on a device of its own."""
    torch.manual_seed(0)
    model = Spelled(COUNTED[name], c=(8,)).eval()
    program = functional(inlined(trace(copy.deepcopy(model), random_images(2, 8))))
    graph = graph_of(program, model, "Spelled")
    _check_results(graph, model, (8,))
    elsewhere = Network(graph).to("meta")(torch.empty(3, 8, device="meta"))
    assert elsewhere.is_meta
    assert elsewhere.shape == model(torch.zeros(3, 8)).shape


def test_numbers_of_other_types_become_float32() -> None:
    graph = capture_float(
        Spelled(lambda x: x + torch.zeros(x.shape[0], 8, dtype=torch.float64)), random_images(3, 8)
    ).graph
    assert Network(graph)(random_images(2, 8)).dtype == torch.float32


# -- what a record reads --

READ: dict[str, tuple[Callable[..., Any], dict[str, tuple[str, ...]]]] = {
    "nothing but its inputs": (
        lambda x: x.relu().flip(1).exp(),
        {"relu": ("input",), "flip": ("relu.output",), "exp": ("flip.output",)},
    ),
    "the images' number is that of an input's rows": (
        lambda x: x.mean(1).expand(3, x.shape[0]).t(),
        {"mean": ("input",), "expand": ("mean.output",), "t": ("expand.output",)},
    ),
    "a sum that is read twice is computed once": (
        lambda m, x: (y := x * m.c + m.c).relu() + (y - m.c),
        {
            "add": ("input", "add.scale", "add.shift"),
            "relu": ("add.output",),
            "sub": ("add.output", "sub.scale", "sub.shift"),
            "add_1": ("relu.output", "sub.output"),
        },
    ),
    "a weight of two parameters": (
        lambda m, x: F.linear(x, m.square - m.c),
        {"linear": ("input", "linear.weight")},
    ),
    "a weight of one parameter": (
        lambda m, x: F.linear(x, m.square - m.square.mean() + 0.5),
        {"linear": ("input", "square")},
    ),
    "values of a pooling": (
        lambda x: F.max_pool1d(x[:, None], 2, return_indices=True)[0],
        {"unsqueeze": ("input",), "max_pool1d_with_indices": ("unsqueeze.output",)},
    ),
    "values and places of a pooling": (
        lambda x: F.max_pool2d(x.view(-1, 1, 4, 2), 2, return_indices=True),
        {
            "view": ("input",),
            "max_pool2d_with_indices.tensors": ("view.output",),
            "getitem": ("max_pool2d_with_indices.tensors.output",),
            "getitem_1": ("max_pool2d_with_indices.tensors.output",),
        },
    ),
    "values of a sort": (
        lambda x: x.sort(1)[0],
        {"sort.tensors": ("input",), "getitem": ("sort.tensors.output",)},
    ),
    "a chunk": (lambda x: x.chunk(2, 1)[0], {"getitem": ("input",)}),
}


@pytest.mark.parametrize("name", READ)
def test_names_and_inputs(name: str) -> None:
    spelled, inputs = READ[name]
    graph = captured(spelled, (8,), c=(8,), square=(8, 8))
    assert {node.name.removesuffix(".output"): node.inputs for node in graph.nodes} == inputs


# -- operators that are not ATen's --


def own_operator(name: str, function: Callable[..., Any], made: Callable[..., Any], schema: str) -> Callable[..., Any]:
    operator = torch.library.custom_op(f"of_somebody::{name}", function, mutates_args=(), schema=schema)
    operator.register_fake(made)
    return operator


OF_SOMEBODY = {
    "relu": own_operator("relu", lambda x: x + 1, torch.empty_like, "(Tensor x) -> Tensor"),
    "roll": own_operator("roll", lambda self: self + 1, torch.empty_like, "(Tensor self) -> Tensor"),
    "view": own_operator("view", lambda x: x + 1, torch.empty_like, "(Tensor x) -> Tensor"),
    "dropout": own_operator("dropout", lambda x: x + 1, torch.empty_like, "(Tensor x) -> Tensor"),
    "chunk": own_operator(
        "chunk",
        lambda x: [x + 1, x + 2],
        lambda x: [torch.empty_like(x), torch.empty_like(x)],
        "(Tensor x) -> Tensor[]",
    ),
}


@pytest.mark.parametrize("name", OF_SOMEBODY)
def test_an_operator_of_somebody_is_other_whatever_its_name(name: str) -> None:
    graph = captured(lambda x: x + (OF_SOMEBODY[name](x)[0] if name == "chunk" else OF_SOMEBODY[name](x)), (8,))
    *others, add = [type(node.operation) for node in graph.nodes]
    assert set(others) == {Other}
    assert add is Add
