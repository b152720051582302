"""Which record a spelling becomes, with which numbers, and what is used otherwise than a record knows it. Without engines,
which hold every record in `test_operations_contract`."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from networks import random_images
from one_operation import Weights
from torch import Tensor, nn

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
    """The images and what is written of them; `m` holds its parameters."""

    def __init__(self, spelled: Callable[..., Any], **shapes: tuple[int, ...]) -> None:
        super().__init__(1, **shapes)
        self.spelled = spelled

    def forward(self, x: Tensor) -> Any:
        return self.spelled(x, self)


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
        lambda x, m: F.conv1d(x, m.w, m.b, 2, 1),
        (8, 12),
        {"w": (6, 8, 3), "b": (6,)},
        Convolution((2,), ((1, 1),), (1,)),
    ),
    "conv2d, every axis by itself": (
        lambda x, m: F.conv2d(x, m.w, None, (2, 1), (2, 0), (3, 1)),
        (8, 9, 8),
        {"w": (6, 8, 3, 2)},
        Convolution((2, 1), ((2, 2), (0, 0)), (3, 1)),
    ),
    "conv2d, lists of one number": (
        lambda x, m: F.conv2d(x, m.w, None, (2,), (1,), (3,), groups=4),
        (8, 9, 8),
        {"w": (12, 2, 3, 2)},
        Convolution((2, 2), ((1, 1), (1, 1)), (3, 3), 4),
    ),
    "conv2d same": (  # 3 and 4 zeros along the axes; of the odd one more behind
        lambda x, m: F.conv2d(x, m.w, None, 1, "same", (1, 2)),
        (8, 9, 8),
        {"w": (6, 8, 4, 3)},
        Convolution((1, 1), ((1, 2), (2, 2)), (1, 2)),
    ),
    "conv1d valid": (
        lambda x, m: F.conv1d(x, m.w, None, 2, "valid", 2),
        (8, 12),
        {"w": (6, 8, 3)},
        Convolution((2,), ((0, 0),), (2,)),
    ),
    "conv3d": (
        lambda x, m: F.conv3d(x, m.w, None, 1, (1, 0, 1), 1),
        (4, 3, 4, 3),
        {"w": (6, 4, 2, 2, 2)},
        Convolution((1, 1, 1), ((1, 1), (0, 0), (1, 1)), (1, 1, 1)),
    ),
    "conv_transpose2d": (
        lambda x, m: F.conv_transpose2d(x, m.w, m.b, (2, 3), (1, 0), (1, 2), 2, (1, 2)),
        (8, 5, 4),
        {"w": (8, 3, 3, 2), "b": (6,)},
        Convolution((2, 3), ((1, 1), (0, 0)), (1, 2), 2, True, (1, 2)),
    ),
    "conv_transpose1d": (
        lambda x, m: F.conv_transpose1d(x, m.w),
        (8, 5),
        {"w": (8, 3, 3)},
        Convolution((1,), ((0, 0),), (1,), 1, True, (0,)),
    ),
    "torch.convolution": (
        lambda x, m: torch.convolution(x, m.w, m.b, [1, 2], [1, 0], [1, 2], False, [0, 0], 2),
        (8, 9, 8),
        {"w": (6, 4, 3, 3), "b": (6,)},
        Convolution((1, 2), ((1, 1), (0, 0)), (1, 2), 2),
    ),
    "torch.convolution, transposed": (
        lambda x, m: torch.convolution(x, m.w, None, [2, 2], [1, 0], [1, 1], True, [1, 0], 2),
        (8, 5, 4),
        {"w": (8, 3, 3, 3)},
        Convolution((2, 2), ((1, 1), (0, 0)), (1, 1), 2, True, (1, 0)),
    ),
    "linear": (lambda x, m: F.linear(x, m.w, m.b), (8,), {"w": (6, 8), "b": (6,)}, Linear()),
    "linear without bias": (lambda x, m: F.linear(x, m.w), (5, 8), {"w": (6, 8)}, Linear()),
    "addmm": (lambda x, m: torch.addmm(m.b, x, m.w), (8,), {"w": (8, 6), "b": (6,)}, Linear()),
    "matmul": (lambda x, m: x @ m.w, (5, 8), {"w": (8, 6)}, Linear()),
    "mm": (lambda x, m: x.mm(m.w), (8,), {"w": (8, 6)}, Linear()),
    "einsum, (in, out)": (lambda x, m: torch.einsum("nlc,ck->nlk", x, m.w), (5, 8), {"w": (8, 6)}, Linear()),
    "einsum, (out, in)": (lambda x, m: torch.einsum("nc, kc -> nk", x, m.w), (8,), {"w": (6, 8)}, Linear()),
    "einsum, the weight first": (lambda x, m: torch.einsum("ck,nc->nk", m.w, x), (8,), {"w": (8, 6)}, Linear()),
    "einsum of a square": (lambda x, m: torch.einsum("nlc,kc->nlk", x, m.w), (8, 8), {"w": (8, 8)}, Linear()),
    "batch_norm without gamma and beta": (
        lambda x, m: F.batch_norm(x, m.mean, m.mean.square() + 0.5, momentum=0.3, eps=0.02),
        (8, 4),
        {"mean": (8,)},
        BatchNorm(0.02, 0.3),
    ),
    "batch_norm without beta": (
        lambda x, m: F.batch_norm(x, m.mean, m.mean.square() + 0.5, m.gamma),
        (8, 4, 4),
        {"mean": (8,), "gamma": (8,)},
        BatchNorm(1e-5, 0.1),
    ),
    "batch_norm without gamma": (
        lambda x, m: F.batch_norm(x, m.mean, m.mean.square() + 0.5, bias=m.beta),
        (8,),
        {"mean": (8,), "beta": (8,)},
        BatchNorm(1e-5, 0.1),
    ),
    "relu": (lambda x, m: x.relu(), (8,), {}, Clamp(0.0, math.inf)),
    "relu6": (lambda x, m: F.relu6(x), (8,), {}, Clamp(0.0, 6.0)),
    "hardtanh": (lambda x, m: F.hardtanh(x, -0.25, 0.5), (8,), {}, Clamp(-0.25, 0.5)),
    "clamp": (lambda x, m: x.clamp(-1, 0.5), (8,), {}, Clamp(-1.0, 0.5)),
    "clip from below": (lambda x, m: x.clip(0.25), (8,), {}, Clamp(0.25, math.inf)),
    "clip from above": (lambda x, m: x.clip(max=0.25), (8,), {}, Clamp(-math.inf, 0.25)),
    "clamp_min": (lambda x, m: x.clamp_min(0.25), (8,), {}, Clamp(0.25, math.inf)),
    "clamp_max": (lambda x, m: x.clamp_max(0.25), (8,), {}, Clamp(-math.inf, 0.25)),
    "threshold": (lambda x, m: F.threshold(x, 0.25, 0.25), (8,), {}, Clamp(0.25, math.inf)),
    "add": (lambda x, m: x + x, (8,), {}, Add()),
    "avg_pool1d": (
        lambda x, m: F.avg_pool1d(x, 3, 2, 1, True, False),
        (8, 12),
        {},
        AveragePool((3,), (2,), (1,), True, False, None),
    ),
    "avg_pool2d": (
        lambda x, m: F.avg_pool2d(x, (2, 3), (1, 2), (1, 0), divisor_override=5),
        (8, 9, 8),
        {},
        AveragePool((2, 3), (1, 2), (1, 0), False, True, 5),
    ),
    "avg_pool2d, lists of one number": (
        lambda x, m: F.avg_pool2d(x, (3,), (2,), (1,)),
        (8, 9, 8),
        {},
        AveragePool((3, 3), (2, 2), (1, 1), False, True, None),
    ),
    "avg_pool3d, strides of the kernel": (
        lambda x, m: F.avg_pool3d(x, (2, 1, 3)),
        (4, 4, 3, 6),
        {},
        AveragePool((2, 1, 3), (2, 1, 3), (0, 0, 0), False, True, None),
    ),
    "adaptive_avg_pool1d": (lambda x, m: F.adaptive_avg_pool1d(x, 4), (8, 9), {}, AdaptiveAveragePool((4,))),
    "adaptive_avg_pool2d": (
        lambda x, m: F.adaptive_avg_pool2d(x, (2, None)),
        (8, 9, 8),
        {},
        AdaptiveAveragePool((2, 8)),
    ),
    "adaptive_avg_pool3d": (
        lambda x, m: F.adaptive_avg_pool3d(x, (1, 3, 2)),
        (4, 4, 3, 6),
        {},
        AdaptiveAveragePool((1, 3, 2)),
    ),
    "mean": (lambda x, m: x.mean((-1, 1), keepdim=True), (8, 9, 8), {}, Mean((1, 3), True)),
    "mean of one axis": (lambda x, m: x.mean(-2), (8, 9, 8), {}, Mean((2,), False)),
    "max_pool1d": (
        lambda x, m: F.max_pool1d(x, 3, 2, 1, 2, True),
        (8, 12),
        {},
        MaxPool((3,), (2,), (1,), (2,), True),
    ),
    "max_pool2d": (
        lambda x, m: F.max_pool2d(x, (2, 3), (1, 2), (1, 0), (2, 1)),
        (8, 9, 8),
        {},
        MaxPool((2, 3), (1, 2), (1, 0), (2, 1), False),
    ),
    "max_pool2d, lists of one number": (
        lambda x, m: F.max_pool2d(x, (3,), (2,), (1,), (2,)),
        (8, 9, 8),
        {},
        MaxPool((3, 3), (2, 2), (1, 1), (2, 2), False),
    ),
    "max_pool3d, strides of the kernel": (
        lambda x, m: F.max_pool3d(x, (2, 1, 3)),
        (4, 4, 3, 6),
        {},
        MaxPool((2, 1, 3), (2, 1, 3), (0, 0, 0), (1, 1, 1), False),
    ),
    "adaptive_max_pool1d": (lambda x, m: F.adaptive_max_pool1d(x, 4), (8, 9), {}, AdaptiveMaxPool((4,))),
    "adaptive_max_pool2d": (lambda x, m: F.adaptive_max_pool2d(x, (2, 3)), (8, 9, 8), {}, AdaptiveMaxPool((2, 3))),
    "cat": (lambda x, m: torch.cat([x, x, x], -1), (8, 5), {}, Concatenate(2)),
    "pad": (lambda x, m: F.pad(x, (1, -2, 0, 3)), (8, 9, 8), {}, Pad((1, -2, 0, 3))),
    "pad with None": (lambda x, m: F.pad(x, (1, 2), value=None), (8, 9), {}, Pad((1, 2))),
    "flatten": (lambda x, m: x.flatten(1), (8, 9), {}, Reshape((-1, 72))),
    "view of more rows": (lambda x, m: x.view(-1, 9).view(-1, 8, 9), (8, 9), {}, Reshape((-1, 9))),
    "unsqueeze before the images": (lambda x, m: x.unsqueeze(0)[0], (8,), {}, Reshape((1, -1, 8))),
}


@pytest.mark.parametrize("name", RECORDS)
def test_record(name: str) -> None:
    spelled, shape, shapes, record = RECORDS[name]
    assert captured(spelled, shape, **shapes).nodes[0].operation == record


KINDS: dict[str, tuple[Callable[..., Any], tuple[int, ...], list[type[Operation]]]] = {
    "activation": (lambda x, m: F.prelu(x, m.c), (8, 4), [Activation]),
    "activation by computed numbers": (lambda x, m: F.prelu(x.t(), x[:, 0]).t(), (8,), [Move, Move, Other, Move]),
    "interpolate": (lambda x, m: F.interpolate(x, scale_factor=2), (8, 4), [Move]),
    "index by constants": (lambda x, m: x[:, [2, 0, 0]], (8, 4), [Move]),
    "index by what is computed": (
        lambda x, m: x[torch.arange(len(x)), x.argmax(1)],
        (8,),
        [Other, Other, Other],
    ),
    "reflection": (lambda x, m: F.pad(x, (2, 1), "reflect"), (8, 4), [Move]),
    "padding with a number": (lambda x, m: F.pad(x, (2, 1), value=0.5), (8, 4), [Other]),
    "avg_pool2d of channels as images": (lambda x, m: F.avg_pool2d(x, 2), (8, 4), [Other]),
    "max_pool2d of channels as images": (lambda x, m: F.max_pool2d(x, 2), (8, 4), [Other]),
    "adaptive_avg_pool2d of channels as images": (lambda x, m: F.adaptive_avg_pool2d(x, 2), (8, 4), [Other]),
    "adaptive_avg_pool1d of channels as images": (lambda x, m: F.adaptive_avg_pool1d(x, 2), (8,), [Other]),
    "adaptive_max_pool1d of channels as images": (
        lambda x, m: F.adaptive_max_pool1d(x, 2),
        (8,),
        [Other, Other],
    ),
    "mean of axis 0, which is that of channels": (lambda x, m: x.transpose(0, 1).mean(0), (8, 4), [Move, Other]),
    "mean of whole numbers": (lambda x, m: x.argmax(1).mean(1, dtype=torch.float32), (8, 4), [Other, Other]),
    "cat with whole numbers": (lambda x, m: torch.cat([x, x.argmax(1, True)], 1), (8, 4), [Other, Other]),
    "view of whole numbers": (lambda x, m: x.argmax(1).view(-1, 2, 2).float(), (8, 4), [Other, Other, Other]),
    "addmm, beta": (lambda x, m: torch.addmm(m.c, x, m.square, beta=2), (8,), [Other]),
    "addmm, alpha": (lambda x, m: torch.addmm(m.c, x, m.square, alpha=2), (8,), [Other]),
    "addmm of a matrix more": (lambda x, m: torch.addmm(m.square[:1], x, m.square), (8,), [Other]),
    "addmm of what is computed": (lambda x, m: torch.addmm(x, x, m.square), (8,), [Other]),
    "a vector as weight": (lambda x, m: F.linear(x, m.c), (8,), [Other]),
    "a product with a vector": (lambda x, m: x @ m.c, (4, 8), [Other]),
    "computed numbers as weight": (lambda x, m: F.linear(m.square, x).t(), (8,), [Other, Move]),
    "a bias for each image": (lambda x, m: F.linear(x, m.square, x), (8,), [Other]),
    "images as weights of a convolution": (lambda x, m: F.conv1d(m.square[None], x)[0], (8, 3), [Other, Move]),
    "threshold to another value": (lambda x, m: F.threshold(x, 0.25, 0.5), (8,), [Other]),
    "clamp between tensors": (lambda x, m: x.clamp(max=m.c), (8,), [Other]),
    "sum of twice": (lambda x, m: torch.add(x, x, alpha=2), (8,), [Other]),
    "sum with whole numbers": (lambda x, m: x + x.argmax(1, True), (8, 4), [Other, Other]),
    "product per channel": (lambda x, m: x * m.c, (4, 8), [Other]),
    "division rounded down, and + per channel": (
        lambda x, m: torch.div(x, m.c, rounding_mode="floor") + m.c,
        (8,),
        [Other, ChannelAffine],
    ),
    "twice per channel subtracted": (lambda x, m: torch.sub(x, m.c, alpha=2), (8,), [Other]),
    "one channel + as many as there are numbers": (lambda x, m: x[:, :1] + m.c, (8,), [Move, Other]),
    "+ per image": (lambda x, m: (x.t() + m.c[:, None]).t(), (8,), [Move, Other, Move]),
    "+ for each place": (lambda x, m: x + m.square, (8, 8), [Other]),
    "einsum of other axes": (lambda x, m: torch.einsum("ncl,kc->nkl", x, m.square), (8, 4), [Other]),
    "einsum of the result's axes in another order": (
        lambda x, m: torch.einsum("nlc,kc->nkl", x, m.square),
        (4, 8),
        [Other],
    ),
    "einsum of a diagonal": (lambda x, m: torch.einsum("ncc,ck->nck", x, m.square), (8, 8), [Other]),
    "einsum of a sum over both": (lambda x, m: torch.einsum("nc,kd->nk", x, m.square), (8,), [Other]),
    "einsum with points": (lambda x, m: torch.einsum("...c,ck->...k", x, m.square), (4, 8), [Other]),
    "einsum without result": (lambda x, m: torch.einsum("ac,cb", x, m.square), (8,), [Other]),
    "einsum of three": (lambda x, m: torch.einsum("nc,ck,k->nk", x, m.square, m.c), (8,), [Other]),
    "einsum with a vector": (lambda x, m: torch.einsum("nc,c->n", x, m.c), (8,), [Other]),
    "einsum of two that are computed": (lambda x, m: torch.einsum("nc,kd->nd", x, m.square), (8,), [Other]),
    "both tensors of a pooling": (
        lambda x, m: F.max_pool2d(x, 2, return_indices=True),
        (8, 4, 4),
        [Other, Other, Other],
    ),
    "the indices of a pooling": (
        lambda x, m: F.max_pool2d(x, 2, return_indices=True)[1],
        (8, 4, 4),
        [Other, Other],
    ),
    "the largest of a sort": (lambda x, m: x.sort(1)[0], (8,), [Other, Other]),
    "the places of a sort": (lambda x, m: x.sort(1)[1], (8,), [Other, Other]),
    "a chunk": (lambda x, m: x.chunk(3, -1)[2], (8,), [Move]),
    "unbind of images": (lambda x, m: x.t().unbind(0)[3], (8,), [Move, Other, Other]),
}


@pytest.mark.parametrize("name", KINDS)
def test_kinds(name: str) -> None:
    spelled, shape, kinds = KINDS[name]
    graph = captured(spelled, shape, c=(8,), square=(8, 8))
    assert [type(node.operation) for node in graph.nodes] == kinds, graph.described()
