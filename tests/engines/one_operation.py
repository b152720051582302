"""Networks of one operation, convolution -> operation -> head, and their slow twin: eager PyTorch in float64, in which
a tensor is put on its grid by the formula wherever it has one. The twin reads no graph and no record."""

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.graph import INPUT
from quant_sweep.graph.operations import Operation

CHANNELS = 8
SIDES = {0: (), 1: (12,), 2: (9, 8), 3: (5, 6, 5)}  # of the images, by their number of axes
CONVOLUTIONS = {0: nn.Linear, 1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}


@dataclass(frozen=True)
class Case:
    """One spelling of an operation.

    Attributes:
        kind: the record that it has to become; None: it computes nothing and becomes no record.
        spelled: what is written in Python. A parameter called `m` is the module that holds its parameters.
        axes: of the images, besides that of the channels.
        make: makes that module; the operation itself may be the module, and `spelled` None.
        integers: whether int8 and integer compute it on codes.
        rows: how its weight, as PyTorch has it, counts its output channels: "out" on axis 0, "in" on axis 1,
            "transposed" as transposed convolutions do it.
    """

    kind: type[Operation] | None
    spelled: Callable[..., Tensor] | None
    axes: int = 2
    make: Callable[[], nn.Module] | None = None
    integers: bool = True
    rows: str = "out"

    @property
    def branches(self) -> int:
        """How many convolutions the operation reads."""
        if self.spelled is None:
            return 1
        return sum(
            p.default is p.empty for name, p in inspect.signature(self.spelled).parameters.items() if name != "m"
        )


class OneOperation(nn.Module):
    """What a person would write: layers, the operation between them; or the operation alone."""

    def __init__(self, case: Case, alone: bool = False) -> None:
        super().__init__()
        self.case = case
        kernel = (3,) if case.axes else ()
        layers = () if alone else (CONVOLUTIONS[case.axes](3, CHANNELS, *kernel) for _ in range(case.branches))
        self.layers = nn.ModuleList(layers)
        self.operation = case.make() if case.make is not None else nn.Identity()
        self.head: nn.Module = nn.Identity()
        if not alone:
            with torch.no_grad():
                features = self.operated(self.between(images(case, 2))).flatten(1).shape[1]
            self.head = nn.Sequential(nn.Flatten(), nn.Linear(features, 5))

    def between(self, x: Tensor) -> list[Tensor]:
        return [layer(x) for layer in self.layers] or [x]

    def operated(self, tensors: list[Tensor]) -> Tensor:
        if self.case.spelled is None:
            return self.operation(*tensors)
        holder = {"m": self.operation} if "m" in inspect.signature(self.case.spelled).parameters else {}
        return self.case.spelled(*tensors, **holder)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.operated(self.between(x)))


def images(case: Case, count: int, channels: int = 3) -> Tensor:
    return torch.randn(count, channels, *SIDES[case.axes], generator=torch.Generator().manual_seed(1))


class Twin:
    """The network of a case on grids.

    Attributes:
        exact: of each activation that has a grid, where it lies on it before it is rounded, float64, after a run.
    """

    given: Mapping[str, Tensor]

    def __init__(self, model: OneOperation, qparams: Mapping[str, QParams]) -> None:
        self.model, self.qparams = copy.deepcopy(model).double(), qparams
        self.exact: dict[str, Tensor] = {}
        self.layers = [f"layers.{i}.output" for i in range(len(model.layers))]
        known = {INPUT, *self.layers, *(name for name in qparams if name.endswith("weight"))}
        rest = [name for name in qparams if name not in known]
        assert len(rest) <= 1, f"an operation has one output: {rest}"
        self.output = rest[0] if rest else ""
        for name, parameter in self.model.named_parameters():
            if name in qparams:
                rows = model.case.rows if name.startswith("operation") else "out"
                parameter.data = put_on_grid(parameter.data, qparams[name], rows, _groups(self.model.operation))

    @torch.no_grad()
    def run(self, x: Tensor, given: Mapping[str, Tensor] | None = None) -> Tensor:
        """The logits, float64.

        Args:
            given: codes that somebody else found for some tensors: what reads these reads them, so that each operation
                is judged from equal inputs.
        """
        self.given = given or {}
        x = self._on_grid(x.double(), INPUT)
        tensors = self.model.between(x)
        tensors = [self._on_grid(y, name) for y, name in zip(tensors, self.layers or [""], strict=True)]
        return self.model.head(self._on_grid(self.model.operated(tensors).double(), self.output))

    def _on_grid(self, x: Tensor, name: str) -> Tensor:
        if name not in self.qparams:
            return x
        grid = self.qparams[name]
        scale, zero = grid.scale.double(), grid.zero_point.double()
        self.exact[name] = (x / scale + zero).clamp(grid.spec.qmin, grid.spec.qmax)
        codes = self.given.get(name, torch.round(self.exact[name]))
        return ((codes - zero) * scale).contiguous()


def _groups(operation: nn.Module) -> int:
    return int(getattr(operation, "groups", 1))


def put_on_grid(weight: Tensor, grid: QParams, rows: str, groups: int) -> Tensor:
    """A weight in PyTorch's layout on a symmetric grid with a scale for each output channel."""
    scale = grid.scale.double()
    if rows == "transposed":  # (in, out / groups, *kernel): input i of group g makes the outputs of g
        of_group = scale.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
        scale = of_group.reshape(len(weight), -1, *[1] * (weight.dim() - 2))
    else:
        shape = [1] * weight.dim()
        shape[0 if rows == "out" else 1] = -1
        scale = scale.reshape(shape)
    return torch.round(weight / scale).clamp(grid.spec.qmin, grid.spec.qmax) * scale


class Weights(nn.Module):
    """Parameters for operations that are functions: `weight`, `bias` and whatever else."""

    def __init__(self, groups: int = 1, **parameters: Any) -> None:
        super().__init__()
        self.groups = groups
        for name, shape in parameters.items():
            fan_in = max(torch.Size(shape[1:]).numel(), 1)
            self.register_parameter(name, nn.Parameter(torch.randn(shape) / fan_in**0.5))
