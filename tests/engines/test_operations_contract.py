"""Every spelling that PyTorch has of every operation becomes its record, and all engines compute it as the slow twin.

A new operation, or another spelling of a known one, is covered by a line of the table.
"""

import inspect

import pytest
import torch
import torch.nn.functional as F
from exact_kernels import needs_int8
from one_operation import Case, OneOperation, Twin, Weights, images
from torch import Tensor, nn

from quant_sweep.calibration.one_pass import calibrate, choose_qparams
from quant_sweep.engines import Int8, Integer, Simulate
from quant_sweep.errors import InputError
from quant_sweep.graph import Fusion, Graph, Network, QuantGraph, capture_float, with_quantizers
from quant_sweep.graph import operations as vocabulary
from quant_sweep.graph.interpret import relative_difference
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
from quant_sweep.observers import MinMax
from quant_sweep.quantization.scheme import AFFINE, BitWidths, assign_specs

C = 8  # channels between the layers


def weights(groups: int = 1, **shapes: tuple[int, ...]):
    return lambda: Weights(groups, **shapes)


def module(kind: type[Operation] | None, make, axes: int = 2, **more) -> Case:
    return Case(kind, None, axes, make, **more)


CONVOLUTIONS = {
    "Conv1d": module(Convolution, lambda: nn.Conv1d(C, 6, 3, 2, 1), 1),
    "Conv2d": module(Convolution, lambda: nn.Conv2d(C, 6, 3)),
    "Conv2d strided, padded, dilated": module(Convolution, lambda: nn.Conv2d(C, 6, (3, 2), (2, 1), (2, 0), (2, 1))),
    "Conv2d grouped": module(Convolution, lambda: nn.Conv2d(C, 12, 3, groups=4, bias=False)),
    "Conv2d depthwise": module(Convolution, lambda: nn.Conv2d(C, C, 3, padding=1, groups=C)),
    "Conv2d same": module(Convolution, lambda: nn.Conv2d(C, 6, (4, 3), padding="same", dilation=(1, 2))),
    "Conv2d valid": module(Convolution, lambda: nn.Conv2d(C, 6, 3, padding="valid")),
    "Conv3d": module(Convolution, lambda: nn.Conv3d(C, 6, 2, padding=1, stride=(1, 2, 1)), 3),
    "F.conv1d": Case(Convolution, lambda y, m: F.conv1d(y, m.weight, stride=2), 1, weights(weight=(6, C, 3))),
    "F.conv2d": Case(
        Convolution, lambda y, m: F.conv2d(y, m.weight, m.bias, 2, (1, 2)), 2, weights(weight=(6, C, 3, 3), bias=(6,))
    ),
    "F.conv2d by keyword": Case(
        Convolution,
        lambda y, m: F.conv2d(weight=m.weight, input=y, groups=2, padding="same"),
        2,
        weights(weight=(6, C // 2, 2, 3)),
    ),
    "torch.conv2d": Case(Convolution, lambda y, m: torch.conv2d(y, m.weight), 2, weights(weight=(6, C, 3, 3))),
    "torch.convolution": Case(
        Convolution,
        lambda y, m: torch.convolution(y, m.weight, None, [1, 1], [1, 0], [1, 1], False, [0, 0], 1),
        2,
        weights(weight=(6, C, 3, 3)),
    ),
    "F.conv3d": Case(Convolution, lambda y, m: F.conv3d(y, m.weight, None, 2), 3, weights(weight=(6, C, 2, 2, 2))),
    "a weight computed from a parameter": Case(
        Convolution, lambda y, m: F.conv2d(y, m.weight.repeat(1, 2, 1, 1)), 2, weights(weight=(6, C // 2, 3, 3))
    ),
}

TRANSPOSED = {
    name: module(Convolution, make, axes, rows="transposed")
    for name, make, axes in [
        ("ConvTranspose1d", lambda: nn.ConvTranspose1d(C, 6, 3, 2, 1, output_padding=1), 1),
        ("ConvTranspose2d", lambda: nn.ConvTranspose2d(C, 6, 3), 2),
        ("ConvTranspose2d strided, output_padding", lambda: nn.ConvTranspose2d(C, 6, 3, 2, 1, (1, 0)), 2),
        ("ConvTranspose2d grouped, dilated", lambda: nn.ConvTranspose2d(C, 12, 3, groups=4, dilation=2, bias=False), 2),
        ("ConvTranspose2d depthwise", lambda: nn.ConvTranspose2d(C, C, 2, 2, groups=C), 2),
        ("ConvTranspose2d padded by more than its reach", lambda: nn.ConvTranspose2d(C, 6, 2, 3, (2, 3), 2), 2),
        ("ConvTranspose3d", lambda: nn.ConvTranspose3d(C, 6, 2, 2), 3),
    ]
} | {
    "F.conv_transpose2d": Case(
        Convolution,
        lambda y, m: F.conv_transpose2d(y, m.weight, m.bias, stride=2, groups=m.groups),
        2,
        weights(2, weight=(C, 3, 3, 3), bias=(6,)),
        rows="transposed",
    ),
    "F.conv_transpose1d": Case(
        Convolution, lambda y, m: F.conv_transpose1d(y, m.weight), 1, weights(weight=(C, 3, 3)), rows="transposed"
    ),
}

LINEARS = {
    "Linear": module(Linear, lambda: nn.Linear(C, 6), 0),
    "Linear over a sequence": Case(Linear, lambda y, m: m(y), 1, lambda: nn.Linear(10, 6, bias=False)),
    "Linear over maps": Case(Linear, lambda y, m: m(y), 2, lambda: nn.Linear(6, 4)),
    "F.linear": Case(Linear, lambda y, m: F.linear(y, m.weight, m.bias), 0, weights(weight=(6, C), bias=(6,))),
    "F.linear by keyword": Case(Linear, lambda y, m: F.linear(weight=m.weight, input=y), 0, weights(weight=(6, C))),
    "F.linear, transposed parameter": Case(
        Linear, lambda y, m: F.linear(y, m.weight.t()), 0, weights(weight=(C, 6)), rows="in"
    ),
    "@": Case(Linear, lambda y, m: y @ m.weight, 0, weights(weight=(C, 6)), rows="in"),
    "@ of a sequence": Case(Linear, lambda y, m: y @ m.weight, 1, weights(weight=(10, 6)), rows="in"),
    "@ transposed": Case(Linear, lambda y, m: y @ m.weight.T, 0, weights(weight=(6, C))),
    "torch.matmul": Case(Linear, lambda y, m: torch.matmul(y, m.weight), 1, weights(weight=(10, 6)), rows="in"),
    "Tensor.matmul": Case(Linear, lambda y, m: y.matmul(m.weight), 0, weights(weight=(C, 6)), rows="in"),
    "torch.mm": Case(Linear, lambda y, m: torch.mm(y, mat2=m.weight), 0, weights(weight=(C, 6)), rows="in"),
    "torch.addmm": Case(
        Linear, lambda y, m: torch.addmm(m.bias, y, m.weight), 0, weights(weight=(C, 6), bias=(6,)), rows="in"
    ),
    "torch.einsum": Case(
        Linear, lambda y, m: torch.einsum("nc,ck->nk", y, m.weight), 0, weights(weight=(C, 6)), rows="in"
    ),
    "torch.einsum, weight first": Case(
        Linear, lambda y, m: torch.einsum("kl, ncl -> nck", m.weight, y), 1, weights(weight=(6, 10))
    ),
}

BATCH_NORMS = {
    name: module(BatchNorm, make, axes, integers=False)
    for name, make, axes in [
        ("BatchNorm1d", lambda: nn.BatchNorm1d(C), 0),
        ("BatchNorm1d of a sequence", lambda: nn.BatchNorm1d(C, affine=False), 1),
        ("BatchNorm2d", lambda: nn.BatchNorm2d(C, eps=0.1), 2),
        ("BatchNorm3d", lambda: nn.BatchNorm3d(C), 3),
        ("SyncBatchNorm", lambda: nn.SyncBatchNorm(C), 2),
    ]
} | {
    "F.batch_norm": Case(
        BatchNorm,
        lambda y, m: F.batch_norm(y, m.mean, m.mean.abs() + 0.5, weight=m.gamma, eps=0.01),
        2,
        weights(mean=(C,), gamma=(C,)),
        integers=False,
    ),
}

CHANNEL_AFFINES = {
    name: Case(ChannelAffine, spelled, axes, weights(a=shape, b=shape), integers=False)
    for name, spelled, axes, shape in [
        ("+ per channel", lambda y, m: y + m.a, 2, (C, 1, 1)),
        ("+= per channel", lambda y, m: y.add_(m.a), 1, (1, C, 1)),
        ("per channel -", lambda y, m: y - m.a, 0, (C,)),
        ("torch.sub along the last axis", lambda y, m: torch.sub(y, m.a), 2, (6,)),
        ("* and + per channel", lambda y, m: m.b + m.a * y, 3, (C, 1, 1, 1)),
        ("- and / per channel", lambda y, m: (y - m.a).div_(m.b.abs() + 1), 2, (1, C, 1, 1)),
        ("four steps", lambda y, m: (y - m.a) / (m.b.abs() + 1) * m.b + m.a, 2, (C, 1, 1)),
    ]
}

CLAMPS = {
    "ReLU": module(Clamp, nn.ReLU),
    "ReLU in place": module(Clamp, lambda: nn.ReLU(inplace=True)),
    "F.relu": Case(Clamp, lambda y: F.relu(y)),
    "F.relu in place": Case(Clamp, lambda y: F.relu(y, inplace=True), 1),
    "torch.relu": Case(Clamp, lambda y: torch.relu(y), 3),
    "torch.relu_": Case(Clamp, lambda y: torch.relu_(y)),
    "Tensor.relu": Case(Clamp, lambda y: y.relu(), 0),
    "Tensor.relu_": Case(Clamp, lambda y: y.relu_()),
    "ReLU6": module(Clamp, nn.ReLU6),
    "F.relu6": Case(Clamp, lambda y: F.relu6(y, inplace=True)),
    "Hardtanh": module(Clamp, lambda: nn.Hardtanh(-0.5, 0.7)),
    "F.hardtanh": Case(Clamp, lambda y: F.hardtanh(y, -0.3, 0.5)),
    "F.hardtanh, defaults": Case(Clamp, lambda y: F.hardtanh(y)),
    "F.hardtanh_": Case(Clamp, lambda y: F.hardtanh_(y, max_val=0.4)),
    "torch.clamp": Case(Clamp, lambda y: torch.clamp(y, 0, 1)),
    "torch.clamp, integers": Case(Clamp, lambda y: torch.clamp(y, max=1, min=-1), 1),
    "torch.clamp from below": Case(Clamp, lambda y: torch.clamp(y, 0)),
    "torch.clamp from above": Case(Clamp, lambda y: torch.clamp(y, max=0.3)),
    "Tensor.clamp": Case(Clamp, lambda y: y.clamp(min=-0.2, max=0.4)),
    "Tensor.clamp_": Case(Clamp, lambda y: y.clamp_(-0.2, 0.4)),
    "torch.clip": Case(Clamp, lambda y: torch.clip(y, -0.1, 0.6)),
    "Tensor.clip": Case(Clamp, lambda y: y.clip(max=0.6)),
    "Tensor.clip_": Case(Clamp, lambda y: y.clip_(0.1, 0.6)),
    "torch.clamp_min": Case(Clamp, lambda y: torch.clamp_min(y, 0.1)),
    "Tensor.clamp_min_": Case(Clamp, lambda y: y.clamp_min_(0.0)),
    "torch.clamp_max": Case(Clamp, lambda y: torch.clamp_max(y, 0.1)),
    "Tensor.clamp_max": Case(Clamp, lambda y: y.clamp_max(-0.1)),
    "Threshold": module(Clamp, lambda: nn.Threshold(0.1, 0.1)),
    "F.threshold": Case(Clamp, lambda y: F.threshold(y, 0.0, 0.0)),
}

ACTIVATIONS = {
    f"{make.__name__}": module(Activation, make)
    for make in (
        nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.LeakyReLU, nn.LogSigmoid, nn.Mish, nn.PReLU,
        nn.SELU, nn.Sigmoid, nn.SiLU, nn.Softplus, nn.Tanh,
    )
} | {
    "Hardshrink": module(Activation, lambda: nn.Hardshrink(0.2)),
    "Softshrink": module(Activation, lambda: nn.Softshrink(0.2)),
    "GELU by tanh": module(Activation, lambda: nn.GELU("tanh")),
    "PReLU of channels": module(Activation, lambda: nn.PReLU(C, 0.1), integers=False),
    "Hardswish in place": module(Activation, lambda: nn.Hardswish(inplace=True)),
    "F.elu_": Case(Activation, lambda y: F.elu_(y, 0.5)),
    "F.gelu": Case(Activation, lambda y: F.gelu(y, approximate="tanh"), 0),
    "F.leaky_relu": Case(Activation, lambda y: F.leaky_relu(y, negative_slope=0.2), 1),
    "F.leaky_relu_": Case(Activation, lambda y: F.leaky_relu_(y, 0.2)),
    "F.prelu": Case(Activation, lambda y, m: F.prelu(y, m.slope), 2, weights(slope=(1,))),
    "F.silu": Case(Activation, lambda y: F.silu(y, inplace=True), 3),
    "torch.celu_": Case(Activation, lambda y: torch.celu_(y, 0.5)),
    "torch.sigmoid": Case(Activation, lambda y: torch.sigmoid(y)),
    "torch.tanh_": Case(Activation, lambda y: torch.tanh_(y)),
    "Tensor.sigmoid_": Case(Activation, lambda y: y.sigmoid_()),
    "Tensor.tanh": Case(Activation, lambda y: y.tanh()),
}  # fmt: skip

ADDS = {
    "+": Case(Add, lambda y, z: y + z),
    "+ of sequences": Case(Add, lambda y, z: y + z, 1),
    "+ broadcast": Case(Add, lambda y, z: y + z[:, :, :1, 2:3]),
    "+=": Case(Add, lambda y, z: y.__iadd__(z)),
    "torch.add": Case(Add, lambda y, z: torch.add(y, z), 0),
    "torch.add by keyword": Case(Add, lambda y, z: torch.add(input=y, other=z, alpha=1)),
    "Tensor.add": Case(Add, lambda y, z: y.add(z), 3),
    "Tensor.add_": Case(Add, lambda y, z: y.add_(z)),
    "itself": Case(Add, lambda y: y + y),
}

AVERAGES = {
    "AvgPool1d": module(AveragePool, lambda: nn.AvgPool1d(3, 2, 1), 1),
    "AvgPool1d, ceil, padding left out": module(AveragePool, lambda: nn.AvgPool1d(4, 3, 1, True, False), 1),
    "AvgPool2d": module(AveragePool, lambda: nn.AvgPool2d(2)),
    "AvgPool2d, ceil": module(AveragePool, lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True)),
    "AvgPool2d, padding left out": module(AveragePool, lambda: nn.AvgPool2d(3, 2, 1, count_include_pad=False)),
    "AvgPool2d, ceil, padding left out": module(AveragePool, lambda: nn.AvgPool2d((3, 2), 2, 1, True, False)),
    "AvgPool2d, divisor": module(AveragePool, lambda: nn.AvgPool2d(2, divisor_override=3)),
    "AvgPool3d": module(AveragePool, lambda: nn.AvgPool3d((2, 3, 2), 1, (1, 1, 0)), 3),
    "AvgPool3d, divisor": module(AveragePool, lambda: nn.AvgPool3d(2, ceil_mode=True, divisor_override=5), 3),
    "F.avg_pool1d": Case(AveragePool, lambda y: F.avg_pool1d(y, 3), 1),
    "F.avg_pool2d": Case(AveragePool, lambda y: F.avg_pool2d(y, kernel_size=(2, 3), stride=(1, 2), ceil_mode=True)),
    "F.avg_pool3d": Case(AveragePool, lambda y: F.avg_pool3d(y, 2, 1), 3),
    "AdaptiveAvgPool1d": module(AdaptiveAveragePool, lambda: nn.AdaptiveAvgPool1d(3), 1),
    "AdaptiveAvgPool2d": module(AdaptiveAveragePool, lambda: nn.AdaptiveAvgPool2d(1)),
    "AdaptiveAvgPool2d, windows that overlap": module(AdaptiveAveragePool, lambda: nn.AdaptiveAvgPool2d((3, None))),
    "AdaptiveAvgPool3d": module(AdaptiveAveragePool, lambda: nn.AdaptiveAvgPool3d((1, 3, 2)), 3),
    "F.adaptive_avg_pool1d": Case(AdaptiveAveragePool, lambda y: F.adaptive_avg_pool1d(y, 4), 1),
    "F.adaptive_avg_pool2d": Case(AdaptiveAveragePool, lambda y: F.adaptive_avg_pool2d(y, output_size=(2, 3))),
    "Tensor.mean": Case(Mean, lambda y: y.mean((2, 3))),
    "Tensor.mean, keepdim": Case(Mean, lambda y: y.mean((-1, -2), keepdim=True)),
    "Tensor.mean(axis=)": Case(Mean, lambda y: y.mean(axis=(2, 3))),
    "Tensor.mean(dim=)": Case(Mean, lambda y: y.mean(dim=-1), 1),
    "Tensor.mean(dtype=)": Case(Mean, lambda y: y.mean(2, dtype=torch.float32)),
    "Tensor.mean, channels": Case(Mean, lambda y: y.mean(1, True)),
    "torch.mean": Case(Mean, lambda y: torch.mean(y, [2, 3, 4]), 3),
    "torch.mean by keyword": Case(Mean, lambda y: torch.mean(input=y, dim=(1, 2), keepdim=True)),
}

MAXIMA = {
    "MaxPool1d": module(MaxPool, lambda: nn.MaxPool1d(3, 2, 1), 1),
    "MaxPool2d": module(MaxPool, lambda: nn.MaxPool2d(2)),
    "MaxPool2d, padded, ceil": module(MaxPool, lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True)),
    "MaxPool2d, dilated": module(MaxPool, lambda: nn.MaxPool2d((2, 3), 1, (1, 0), (2, 1))),
    "MaxPool2d, its values alone": Case(MaxPool, lambda y, m: m(y)[0], 2, lambda: nn.MaxPool2d(2, return_indices=True)),
    "MaxPool3d": module(MaxPool, lambda: nn.MaxPool3d(2, 1, 1), 3),
    "F.max_pool1d": Case(MaxPool, lambda y: F.max_pool1d(y, 2, stride=1), 1),
    "F.max_pool2d": Case(MaxPool, lambda y: F.max_pool2d(y, kernel_size=2, padding=1)),
    "F.max_pool2d, values and indices": Case(MaxPool, lambda y: F.max_pool2d(y, 2, return_indices=True)[0]),
    "torch.max_pool2d": Case(MaxPool, lambda y: torch.max_pool2d(y, [2, 2])),
    "F.max_pool3d": Case(MaxPool, lambda y: F.max_pool3d(y, (1, 2, 2)), 3),
    "AdaptiveMaxPool1d": module(AdaptiveMaxPool, lambda: nn.AdaptiveMaxPool1d(3), 1),
    "AdaptiveMaxPool2d": module(AdaptiveMaxPool, lambda: nn.AdaptiveMaxPool2d((3, 2))),
    "AdaptiveMaxPool3d": module(AdaptiveMaxPool, lambda: nn.AdaptiveMaxPool3d(2), 3),
    "F.adaptive_max_pool2d": Case(AdaptiveMaxPool, lambda y: F.adaptive_max_pool2d(y, 1)),
    "F.adaptive_max_pool2d, values and indices": Case(
        AdaptiveMaxPool, lambda y: F.adaptive_max_pool2d(y, 2, return_indices=True)[0]
    ),
}

CONCATENATIONS = {
    "torch.cat": Case(Concatenate, lambda y, z: torch.cat([y, z], 1), integers=False),
    "torch.cat by keyword": Case(Concatenate, lambda y, z: torch.cat(tensors=(y, z), dim=-1), integers=False),
    "torch.concat": Case(Concatenate, lambda y, z: torch.concat((y, z), axis=2), integers=False),
    "torch.concatenate": Case(Concatenate, lambda y, z: torch.concatenate([y, z], 1), 1, integers=False),
    "torch.cat of three": Case(Concatenate, lambda y, z, w: torch.cat([y, z, w], 1), 0, integers=False),
    "torch.cat, one of them integers": Case(
        Other, lambda y: torch.cat([y, y.argmax(1, keepdim=True)], 1), integers=False
    ),
    "torch.cat of one twice": Case(Concatenate, lambda y: torch.cat([y, y], 1)),
}

PADS = {
    "ZeroPad1d": module(Pad, lambda: nn.ZeroPad1d((1, 2)), 1),
    "ZeroPad2d": module(Pad, lambda: nn.ZeroPad2d((1, 0, 2, 1))),
    "ConstantPad2d of zeros": module(Pad, lambda: nn.ConstantPad2d(1, 0.0)),
    "ConstantPad3d of zeros": module(Pad, lambda: nn.ConstantPad3d(1, 0), 3),
    "F.pad": Case(Pad, lambda y: F.pad(y, (1, 2))),
    "F.pad, channels": Case(Pad, lambda y: F.pad(y, (0, 0, 0, 0, 2, 2), value=0)),
    "F.pad, cut off": Case(Pad, lambda y: F.pad(y, (-1, 1, 0, -2), "constant", 0.0)),
}

RESHAPES = {
    "Flatten": module(Reshape, lambda: nn.Flatten(2)),
    "Unflatten": module(Reshape, lambda: nn.Unflatten(1, (2, 4))),
    "torch.flatten": Case(Reshape, lambda y: torch.flatten(y, 1)),
    "torch.flatten, a range": Case(Reshape, lambda y: torch.flatten(y, start_dim=1, end_dim=2), 3),
    "Tensor.flatten": Case(Reshape, lambda y: y.flatten(1)),
    "Tensor.view": Case(Reshape, lambda y: y.view(y.size(0), -1)),
    "Tensor.view, every size": Case(Reshape, lambda y: y.view(y.shape[0], 2, 4, y.shape[2], y.shape[3])),
    "Tensor.reshape": Case(Reshape, lambda y: y.reshape(y.size(0), C, -1)),
    "torch.reshape": Case(Reshape, lambda y: torch.reshape(y, (-1, 2, 4, 10)), 1),
    "Tensor.reshape_as": Case(Reshape, lambda y: y.reshape_as(y.transpose(1, 2)), 1),
    "Tensor.unflatten": Case(Reshape, lambda y: y.unflatten(1, (4, -1))),
    "Tensor.unsqueeze": Case(Reshape, lambda y: y.unsqueeze(-1), 0),
    "torch.unsqueeze": Case(Reshape, lambda y: torch.unsqueeze(y, 1)),
    "y[:, None]": Case(Reshape, lambda y: y[:, None]),
    "Tensor.squeeze": Case(Reshape, lambda y: y[:, :1].squeeze(1)),
    "torch.squeeze": Case(Reshape, lambda y: torch.squeeze(y[..., :1, 2:3], (2, 3))),
}

MOVES = {
    "Tensor.permute": Case(Move, lambda y: y.permute(0, 2, 3, 1)),
    "torch.permute": Case(Move, lambda y: torch.permute(y, dims=(0, 3, 1, 2))),
    "Tensor.transpose": Case(Move, lambda y: y.transpose(1, 2)),
    "torch.transpose": Case(Move, lambda y: torch.transpose(y, dim0=-1, dim1=1), 1),
    "torch.movedim": Case(Move, lambda y: torch.movedim(y, 1, -1)),
    "Tensor.moveaxis": Case(Move, lambda y: y.moveaxis((1, 2), (2, 1))),
    "Tensor.swapaxes": Case(Move, lambda y: y.swapaxes(1, 3)),
    "Tensor.mT": Case(Move, lambda y: y.mT),
    "y[:, ::2]": Case(Move, lambda y: y[:, ::2]),
    "y[..., 1:-1]": Case(Move, lambda y: y[..., 1:-1]),
    "y[:, 3]": Case(Move, lambda y: y[:, 3]),
    "y[:, [4, 0, 0]]": Case(Move, lambda y: y[:, [4, 0, 0]]),
    "Tensor.narrow": Case(Move, lambda y: y.narrow(1, 2, 3)),
    "torch.narrow": Case(Move, lambda y: torch.narrow(y, -1, start=1, length=2)),
    "Tensor.select": Case(Move, lambda y: y.select(2, -1)),
    "torch.index_select": Case(Move, lambda y: torch.index_select(y, 1, torch.tensor([3, 1]))),
    "Tensor.chunk": Case(Move, lambda y: y.chunk(2, 1)[1]),
    "torch.chunk": Case(Move, lambda y: torch.chunk(y, chunks=4, dim=1)[2]),
    "torch.split": Case(Move, lambda y: torch.split(y, 3, dim=1)[1]),
    "Tensor.split, sizes": Case(Move, lambda y: y.split([2, 5, 1], 1)[1]),
    "torch.tensor_split": Case(Move, lambda y: torch.tensor_split(y, 3, 1)[2]),
    "torch.unbind": Case(Move, lambda y: torch.unbind(y, 1)[5]),
    "Tensor.unbind": Case(Move, lambda y: y.unbind(-1)[0], 1),
    "torch.flip": Case(Move, lambda y: torch.flip(y, (1, 3))),
    "torch.roll": Case(Move, lambda y: torch.roll(y, 2, 1)),
    "torch.roll, two axes": Case(Move, lambda y: torch.roll(y, shifts=(1, -1), dims=(2, 3))),
    "Tensor.repeat": Case(Move, lambda y: y.repeat(1, 2, 1, 1)),
    "torch.tile": Case(Move, lambda y: torch.tile(y, (1, 1, 2, 1))),
    "torch.repeat_interleave": Case(Move, lambda y: torch.repeat_interleave(y, 2, dim=1)),
    "Tensor.expand": Case(Move, lambda y: y[:, :1].expand(-1, 3, -1, -1)),
    "Tensor.expand, sizes read off": Case(Move, lambda y: y[:, :1].expand(y.shape[0], 3, y.shape[2], 6)),
    "PixelShuffle": module(Move, lambda: nn.PixelShuffle(2)),
    "PixelUnshuffle": module(Move, lambda: nn.PixelUnshuffle(1)),
    "ChannelShuffle": module(Move, lambda: nn.ChannelShuffle(2)),
    "Upsample nearest": module(Move, lambda: nn.Upsample(scale_factor=2)),
    "F.interpolate nearest": Case(Move, lambda y: F.interpolate(y, size=(10, 7))),
    "F.interpolate nearest, 1 axis": Case(Move, lambda y: F.interpolate(y, scale_factor=1.5), 1),
    "ReflectionPad2d": module(Move, lambda: nn.ReflectionPad2d((1, 2, 0, 1))),
    "ReplicationPad1d": module(Move, lambda: nn.ReplicationPad1d(2), 1),
    "F.pad reflect": Case(Move, lambda y: F.pad(y, (2, 1), "reflect"), 1),
    "F.pad replicate": Case(Move, lambda y: F.pad(y, (1, 1, 1, 1, 1, 1), mode="replicate"), 3),
    "CircularPad2d": module(Move, lambda: nn.CircularPad2d(1)),
    "Tensor.unfold": Case(Move, lambda y: y.unfold(2, 3, 2)),
    "torch.rot90": Case(Move, lambda y: torch.rot90(y, 1, (2, 3))),
}

NOTHING = {
    "Identity": module(None, nn.Identity),
    "Dropout": module(None, nn.Dropout),
    "F.dropout": Case(None, lambda y: F.dropout(y, 0.5, False)),
    "Dropout2d in place": module(None, lambda: nn.Dropout2d(inplace=True)),
    "AlphaDropout": module(None, nn.AlphaDropout),
    "contiguous": Case(None, lambda y: y.contiguous()),
    "clone": Case(None, lambda y: y.clone()),
    "detach": Case(None, lambda y: y.detach()),
    "float": Case(None, lambda y: y.float()),
    "view of its own shape": Case(None, lambda y: y.view(y.shape)),
    "y[:]": Case(None, lambda y: y[:]),
    "channels last": Case(None, lambda y: y.contiguous(memory_format=torch.channels_last)),
}

OTHERS = {
    name: Case(Other, spelled, integers=False)
    for name, spelled in {
        "-": lambda y, z: y - z,
        "*": lambda y, z: y * z,
        "+ a number": lambda y: y + 0.5,
        "+= a number": lambda y: y.add_(0.5),
        "+ alpha": lambda y, z: torch.add(y, z, alpha=2),
        "* a number": lambda y: y * 0.5,
        "* per channel": lambda y: y * torch.linspace(0.5, 1, 8).reshape(8, 1, 1),
        "+ for each image": lambda y: y + torch.full((1,), 0.5),
        "+ for each place": lambda y: y + torch.linspace(0, 1, 42).reshape(7, 6),
        "/ a number": lambda y: y.div(3),
        "abs": lambda y: y.abs(),
        "negative": lambda y: -y,
        "exp": lambda y: torch.exp(y),
        "square root": lambda y: y.abs().sqrt(),
        "softmax": lambda y: y.softmax(1),
        "threshold to another value": lambda y: F.threshold(y, 0.2, -1.0),
        "clamp between tensors": lambda y: y.clamp(torch.full((8, 1, 1), -0.2), torch.full((1,), 0.3)),
        "maximum": lambda y, z: torch.maximum(y, z),
        "where": lambda y, z: torch.where(y > 0, z, 0.1 * y),
        "masked_fill_": lambda y: y.masked_fill_(y < -0.1, 0.3),
        "a slice overwritten": lambda y: y.index_fill(1, torch.tensor([1]), 0.5),
        "padding with a number": lambda y: F.pad(y, (1, 1), value=0.4),
        "sort": lambda y: y.sort(3)[0],
        "topk": lambda y: y.topk(2, 1)[0],
        "max of an axis": lambda y: y.max(2)[0],
        "amax": lambda y: y.amax((2, 3)),
        "sum": lambda y: y.sum((2, 3)),
        "cumsum": lambda y: y.cumsum(1),
        "bilinear": lambda y: F.interpolate(y, scale_factor=2, mode="bilinear"),
        "layer_norm": lambda y: F.layer_norm(y, y.shape[1:]),
        "group_norm": lambda y: F.group_norm(y, 2),
        "instance_norm": lambda y: F.instance_norm(y),
        "glu": lambda y: F.glu(y, 1),
        "product of two": lambda y, z: y @ z.mT,
        "attention": lambda y, z: F.scaled_dot_product_attention(y, z, z),
        "im2col": lambda y: F.unfold(y, 3),
        "a convolution of channels as images": lambda y: F.avg_pool2d(y.flatten(1, 2), 2),
    }.items()
}

TABLE = {
    **CONVOLUTIONS, **TRANSPOSED, **LINEARS, **BATCH_NORMS, **CHANNEL_AFFINES, **CLAMPS, **ACTIVATIONS, **ADDS,
    **AVERAGES, **MAXIMA, **CONCATENATIONS, **PADS, **RESHAPES, **MOVES, **NOTHING, **OTHERS,
}  # fmt: skip


pytestmark = needs_int8


ROUNDED_BEFORE_TOO = (Clamp, Activation, Add)  # by fusion=bn
# Of weights at most 7 bits, which every CPU multiplies exactly; and of activations.
WIDTHS = {Fusion.none: (7, 7), Fusion.bn: (4, 4), Fusion.conv_bn_relu: (7, 8)}


def test_every_record_is_in_the_table() -> None:
    records = {
        value
        for value in vars(vocabulary).values()
        if inspect.isclass(value) and issubclass(value, Operation) and not inspect.isabstract(value)
        if value.__module__ == vocabulary.__name__ and not value.__name__.startswith("_")
    }
    assert records == {case.kind for case in TABLE.values() if case.kind is not None}


@pytest.mark.parametrize("name", TABLE)
def test_operation(name: str) -> None:
    case = TABLE[name]
    torch.manual_seed(0)
    _check(case, OneOperation(case), images(case, 6))


ALONE = (
    "Conv1d", "Conv2d same", "F.conv3d", "ConvTranspose1d", "ConvTranspose2d grouped, dilated", "F.linear", "@",
    "torch.einsum", "BatchNorm2d", "F.relu in place", "Sigmoid", "itself", "AvgPool2d",
    "AdaptiveAvgPool2d", "Tensor.mean", "MaxPool2d", "AdaptiveMaxPool1d", "torch.cat of one twice", "F.pad",
    "torch.flatten", "Tensor.permute", "softmax", "Identity",
)  # fmt: skip


@pytest.mark.parametrize("name", ALONE)
def test_operation_alone(name: str) -> None:
    """It reads the images, and what it makes is returned."""
    case = TABLE[name]
    torch.manual_seed(0)
    _check(case, OneOperation(case, alone=True), images(case, 6, C))


@torch.no_grad()
def _check(case: Case, model: OneOperation, x: Tensor) -> None:
    model.eval()
    for norm in (m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)):
        norm.running_mean.normal_(0, 0.3)
        norm.running_var.uniform_(0.5, 2)
    captured = capture_float(model, x)
    _check_record(case, captured.graph)
    assert relative_difference(Network(captured.graph)(x), model(x.clone())) < 1e-5
    for fusion, widths in WIDTHS.items():
        if case.kind in {BatchNorm, ChannelAffine} and fusion is not Fusion.none:
            continue  # it is folded, which is tested where that is done
        if fusion is Fusion.bn and case.kind not in ROUNDED_BEFORE_TOO:
            continue  # as conv_bn_relu has it
        graph = with_quantizers(captured, fusion)
        specs = assign_specs(graph, AFFINE, BitWidths(*widths, {}))
        _check_engines(case, model, graph, choose_qparams(calibrate(graph, [x]), specs, MinMax(), MinMax()), x)


def _check_record(case: Case, graph: Graph) -> None:
    """Between the layers there is the record, and whatever moves values besides."""
    found = [node.operation for node in graph.nodes if not node.module.startswith(("layers", "head"))]
    assert (case.kind in map(type, found)) if case.kind is not None else not found, found
    assert case.kind is Other or not any(isinstance(operation, Other) for operation in found), found


def _check_engines(case: Case, model: OneOperation, graph: QuantGraph, qparams, x: Tensor) -> None:
    twin, wholly = Twin(model, qparams), case.integers and graph.fusion is not Fusion.none and len(model.layers) > 0
    simulated = Simulate().build(graph, qparams)
    assert relative_difference(simulated(x), twin.run(x)) < 0.01
    for engine, rounding in ((Int8, 0.501), (Integer, 0.505)):  # in codes; integer rounds biases to 1/256 of a code
        try:
            network = engine().build(graph, qparams)
        except InputError:
            assert engine is Integer
            assert not wholly
            continue
        assert not (wholly and network.float_tensors)
        codes = network.codes(x)
        assert relative_difference(network(x), twin.run(x, codes)) < 1e-4
        for tensor in codes:
            assert float((codes[tensor] - twin.exact[tensor]).abs().max()) <= rounding, tensor
