"""What the nodes of a traced graph do, as far as quantization cares."""

from __future__ import annotations

import operator
from enum import Enum, auto
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx, nn

from quant_sweep.errors import InputError


class Operation(Enum):
    """How a node treats numbers that lie on a grid."""

    WEIGHTED = auto()  # convolution or linear layer: multiplies by a weight
    CLAMP = auto()  # ReLU and its kind: cuts values off, can be fused into the layer before
    ACTIVATION = auto()  # any other activation function: makes new values
    ADD = auto()  # sum of two tensors
    AVERAGE = auto()  # average pooling
    KEEP = auto()  # moves or selects values: what was on a grid stays on it
    OTHER = auto()


_WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)
_MODULES: dict[Operation, tuple[type[nn.Module], ...]] = {
    Operation.WEIGHTED: _WEIGHTED,
    Operation.CLAMP: (nn.ReLU, nn.ReLU6, nn.Hardtanh),
    Operation.ACTIVATION: (
        nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.GELU, nn.Sigmoid, nn.Tanh, nn.LeakyReLU, nn.ELU, nn.SELU, nn.Mish,
        nn.PReLU, nn.Softplus,
    ),
    Operation.AVERAGE: (
        nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d, nn.AdaptiveAvgPool1d, nn.AdaptiveAvgPool2d, nn.AdaptiveAvgPool3d,
    ),
    Operation.KEEP: (
        nn.MaxPool1d, nn.MaxPool2d, nn.MaxPool3d, nn.AdaptiveMaxPool2d, nn.Flatten, nn.Unflatten, nn.ZeroPad2d,
        nn.ChannelShuffle, nn.PixelShuffle, nn.PixelUnshuffle,
    ),
}  # fmt: skip
_FUNCTIONS: dict[Operation, set[Any]] = {
    Operation.CLAMP: {F.relu, torch.relu, F.relu6, F.hardtanh},
    Operation.ACTIVATION: {
        F.hardswish, F.hardsigmoid, F.silu, F.gelu, F.sigmoid, torch.sigmoid, F.tanh, torch.tanh, F.leaky_relu, F.elu,
        F.mish, F.softplus,
    },
    Operation.ADD: {operator.add, torch.add},
    Operation.AVERAGE: {F.avg_pool1d, F.avg_pool2d, F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, torch.mean},
    Operation.KEEP: {
        F.max_pool1d, F.max_pool2d, F.adaptive_max_pool2d, torch.flatten, torch.reshape, torch.permute,
        torch.transpose, torch.squeeze, torch.unsqueeze, torch.chunk, torch.split,
        operator.getitem,
    },
}  # fmt: skip
_METHODS: dict[Operation, set[str]] = {
    Operation.CLAMP: {"relu"},
    Operation.ACTIVATION: {"sigmoid", "tanh"},
    Operation.ADD: {"add"},
    Operation.AVERAGE: {"mean"},
    Operation.KEEP: {
        "view", "reshape", "flatten", "permute", "transpose", "contiguous", "squeeze", "unsqueeze", "chunk", "split",
        "detach", "clone",
    },
}  # fmt: skip
_FUNCTIONAL_LAYERS = {F.conv1d, F.conv2d, F.conv3d, F.linear, F.conv_transpose2d, torch.conv2d}


def operation_of(node: fx.Node, modules: dict[str, nn.Module]) -> Operation:
    """Classify a node of a traced graph.

    Raises:
        InputError: the node is a convolution or linear function without a module, whose weight has no name.
    """
    if node.op == "call_module":
        module = modules[str(node.target)]
        return next((op for op, types in _MODULES.items() if isinstance(module, types)), Operation.OTHER)
    if node.op == "call_method":
        found = next((op for op, names in _METHODS.items() if node.target in names), Operation.OTHER)
        return Operation.OTHER if found is Operation.ADD and not _adds_two_tensors(node) else found
    if node.op != "call_function":
        return Operation.OTHER
    if node.target in _FUNCTIONAL_LAYERS:
        raise InputError(
            f"model: {node.name} calls a convolution or linear layer as a function; "
            "use a module (nn.Conv2d, nn.Linear), so that its weight can be quantized"
        )
    if node.target is F.pad:
        return Operation.KEEP if _pads_with_zero_or_own_values(node) else Operation.OTHER
    if node.target in _FUNCTIONS[Operation.ADD] and not _adds_two_tensors(node):
        return Operation.OTHER
    return next((op for op, functions in _FUNCTIONS.items() if node.target in functions), Operation.OTHER)


def _adds_two_tensors(node: fx.Node) -> bool:
    """Not tensor plus number, nor with keywords such as alpha."""
    return len(node.args) == 2 and not node.kwargs and all(isinstance(arg, fx.Node) for arg in node.args)


def _pads_with_zero_or_own_values(node: fx.Node) -> bool:
    """0 lies on every grid; reflected and replicated values lie on the tensor's own."""
    mode = node.kwargs.get("mode", node.args[2] if len(node.args) > 2 else "constant")
    value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None)
    return bool(mode != "constant" or value is None or value == 0)
