"""The vocabulary: everything that a captured network can do, as small records that can be called.

Capture turns each node of an exported program into one of these, once, with all arguments filled in. Fusion, lowering,
engines and explanations read the records and never a node's raw arguments. Whatever has no record of its own is `Other`
and is computed in float: a gap in this file costs speed, never a number.

Called with its inputs, a record computes the operation in float. Inputs are tensors, (n, ...) with images on axis 0;
weights have their output channels on axis 0, those of transposed convolutions too: (out, in / groups, *kernel).
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, final

import torch
import torch.nn.functional as F
from torch import Tensor

Sizes: TypeAlias = tuple[int, ...]
Sides: TypeAlias = tuple[tuple[int, int], ...]  # (before, after) of each axis
Pool: TypeAlias = Callable[..., Tensor]


@dataclass(frozen=True)
class Operation(ABC):
    """One operation with its arguments; called with tensors, it computes them in float."""

    @abstractmethod
    def __call__(self, *inputs: Any) -> Any:
        """The result, from the inputs that the record's text names."""


@final
@dataclass(frozen=True)
class Convolution(Operation):
    """Inputs x, weight and, if there is one, bias (out,). All tuples have one entry per axis of the kernel.

    Attributes:
        padding: zeros (before, after) each axis; of a transposed convolution, what is cut off.
        output_padding: of a transposed convolution, added behind each axis of the result.
    """

    stride: Sizes
    padding: Sides
    dilation: Sizes
    groups: int = 1
    transposed: bool = False
    output_padding: Sizes = ()

    def __call__(self, *inputs: Tensor) -> Tensor:
        x, weight, *bias = inputs
        before = [side[0] for side in self.padding]
        if self.transposed:
            weight = transposed_layout(weight, self.groups)
        elif any(side[0] != side[1] for side in self.padding):
            x, before = F.pad(x, padding_of_torch(self.padding)), [0] * len(before)
        output_padding = self.output_padding or [0] * len(before)
        geometry = (self.stride, before, self.dilation, self.transposed, output_padding, self.groups)
        return torch.convolution(x, weight, bias[0] if bias else None, *geometry)


def transposed_layout(weight: Tensor, groups: int) -> Tensor:
    """(out, in / groups, *kernel) <-> (in, out / groups, *kernel), as torch has weights of transposed convolutions."""
    by_group = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return by_group.transpose(1, 2).reshape(-1, by_group.shape[1], *weight.shape[2:])


def padding_of_torch(sides: Sides) -> list[int]:
    """As torch.nn.functional.pad takes it: the last axis first."""
    return [size for side in reversed(sides) for size in side]


@final
@dataclass(frozen=True)
class Linear(Operation):
    """Inputs x (n, ..., in), weight (out, in) and, if there is one, bias (out,)."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        return F.linear(*inputs)


@final
@dataclass(frozen=True)
class BatchNorm(Operation):
    """Inputs x (n, channels, ...), gamma, beta, mean and variance, (channels,) each.

    gamma * (x - mean) / sqrt(variance + eps) + beta, Ioffe and Szegedy 2015.

    Attributes:
        momentum: share of a batch in the running statistics, where they are estimated again; None where every batch of
            the training counts alike.
    """

    eps: float
    momentum: float | None

    def __call__(self, *inputs: Tensor) -> Tensor:
        x, gamma, beta, mean, variance = inputs
        return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, self.eps)


@final
@dataclass(frozen=True)
class ChannelAffine(Operation):
    """Inputs x, scale and shift, (channels,) each: scale * x + shift, as frozen normalisation is written.

    Attributes:
        axis: of x, that of the channels.
    """

    axis: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        x, *numbers = inputs
        behind = x.dim() - 1 - self.axis
        scale, shift = (values.reshape(-1, *[1] * behind) for values in numbers)
        return scale * x + shift


@final
@dataclass(frozen=True)
class Clamp(Operation):
    """ReLU and its kind: input x, cut off at lo and hi, which may be infinite."""

    lo: float
    hi: float

    def __call__(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        if self == Clamp(0.0, math.inf):
            return F.relu(x)
        return x.clamp(self.lo, self.hi)


@final
@dataclass(frozen=True)
class Add(Operation):
    """Inputs x and y, whose sum may broadcast."""

    def __call__(self, *inputs: Tensor) -> Tensor:
        x, y = inputs
        return x + y


@final
@dataclass(frozen=True)
class AveragePool(Operation):
    """Input x; tuples have one entry per pooled axis, the last ones of x.

    Attributes:
        padding: zeros on both sides of each axis.
        count_padding: whether they count in the average.
        divisor: what sums are divided by, in place of the number of values.
    """

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    ceil: bool
    count_padding: bool
    divisor: int | None

    def __call__(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        geometry = (self.kernel, self.stride, self.padding, self.ceil, self.count_padding)
        if len(self.kernel) == 1:
            return F.avg_pool1d(x, *geometry)
        pool = F.avg_pool2d if len(self.kernel) == 2 else F.avg_pool3d
        return pool(x, *geometry, self.divisor)


@final
@dataclass(frozen=True)
class AdaptiveAveragePool(Operation):
    """Input x; size of the result along the last axes."""

    size: Sizes

    def __call__(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        pool: tuple[Pool, ...] = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)
        return pool[len(self.size) - 1](x, self.size)


@final
@dataclass(frozen=True)
class Mean(Operation):
    """Input x; average over some axes, never that of the images."""

    axes: Sizes
    keepdim: bool

    def __call__(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.mean(self.axes, self.keepdim)


@final
@dataclass(frozen=True)
class MaxPool(Operation):
    """Input x; tuples have one entry per pooled axis, the last ones of x."""

    kernel: Sizes
    stride: Sizes
    padding: Sizes
    dilation: Sizes
    ceil: bool

    def __call__(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        pool: tuple[Pool, ...] = (F.max_pool1d, F.max_pool2d, F.max_pool3d)
        return pool[len(self.kernel) - 1](x, self.kernel, self.stride, self.padding, self.dilation, self.ceil)


@final
@dataclass(frozen=True)
class AdaptiveMaxPool(Operation):
    """Input x; size of the result along the last axes."""

    size: Sizes

    def __call__(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        pool: tuple[Pool, ...] = (F.adaptive_max_pool1d, F.adaptive_max_pool2d, F.adaptive_max_pool3d)
        return pool[len(self.size) - 1](x, self.size)


@final
@dataclass(frozen=True)
class Concatenate(Operation):
    """Any number of inputs, joined along an axis."""

    axis: int

    def __call__(self, *inputs: Tensor) -> Tensor:
        return torch.cat(inputs, self.axis)


@final
@dataclass(frozen=True)
class Pad(Operation):
    """Input x, with zeros around it; a negative size cuts off.

    Attributes:
        padding: as torch.nn.functional.pad takes it, the last axis first.
    """

    padding: Sizes

    def __call__(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return F.pad(x, self.padding)


@final
@dataclass(frozen=True)
class Reshape(Operation):
    """Input x, whose values keep their order; -1 stands at the axis of the images."""

    shape: Sizes

    def __call__(self, *inputs: Tensor) -> Tensor:
        (x,) = inputs
        return x.reshape(self.shape)


@final
@dataclass(frozen=True)
class Slot:
    """Stands for the input of that position in the arguments of a `Call`."""

    position: int


@final
@dataclass(frozen=True)
class Images:
    """Stands for a size: so many times the number of images, which is the length of axis 0 of the input `position`."""

    times: int
    position: int


@final
@dataclass(frozen=True)
class SameDevice:
    """Stands for the device of the last input."""


@final
@dataclass(frozen=True)
class Call:
    """A function of ATen with its arguments.

    Attributes:
        function: as exported.
        args, kwargs: `Slot`, `Images` and `SameDevice` stand in for what is known only when it runs.
    """

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: tuple[tuple[str, Any], ...] = ()

    def __call__(self, *inputs: Any) -> Any:
        args = [_filled_in(arg, inputs) for arg in self.args]
        return self.function(*args, **{name: _filled_in(value, inputs) for name, value in self.kwargs})


def _filled_in(argument: Any, inputs: tuple[Any, ...]) -> Any:
    match argument:
        case Slot(position):
            return inputs[position]
        case Images(times, position):
            return times * inputs[position].shape[0]
        case SameDevice():
            return inputs[-1].device
        case tuple():
            return [_filled_in(part, inputs) for part in argument]
        case _:
            return argument


@dataclass(frozen=True)
class _Called(Operation, ABC):
    call: Call

    def __call__(self, *inputs: Any) -> Any:
        return self.call(*inputs)


@final
@dataclass(frozen=True)
class Activation(_Called):
    """A function of one number, as sigmoid or GELU: input x, and perhaps constants."""


@final
@dataclass(frozen=True)
class Move(_Called):
    """Selects, moves or repeats values of input x and makes no new ones: what lay on a grid lies on it still."""


@final
@dataclass(frozen=True)
class Other(_Called):
    """Everything else; it is computed in float."""


Weighted: TypeAlias = Convolution | Linear
Average: TypeAlias = AveragePool | AdaptiveAveragePool | Mean
Keeps: TypeAlias = MaxPool | AdaptiveMaxPool | Pad | Reshape | Move  # values stay on their grid
