"""A network of several inputs as one of a single input: they lie side by side in one tensor, (n, numbers).

Everything between the data and the network then handles one tensor. Each input is taken out of it by an operation of
its own, `input`, so that each has a grid of its own: one that only moved values would share it with the others.
"""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from quant_sweep.errors import InputError

Shape = tuple[int, ...]


@torch.library.custom_op("quant_sweep::input", mutates_args=())
def _part(packed: Tensor, begin: int, shape: Sequence[int]) -> Tensor:
    """One input, (n, *shape), whose numbers begin at `begin`."""
    return packed[:, begin : begin + math.prod(shape)].reshape(-1, *shape).clone()


@_part.register_fake
def _(packed: Tensor, begin: int, shape: Sequence[int]) -> Tensor:
    del begin
    return packed.new_empty((packed.shape[0], *shape))


def packed(inputs: Sequence[Tensor]) -> Tensor:
    """Inputs (n, ...) side by side, (n, numbers)."""
    return torch.cat([part.flatten(1) for part in inputs], dim=1)


def takes_packed(model: nn.Module, shapes: Sequence[Shape]) -> nn.Module:
    """The model, sharing its parameters, as one of a single packed input; arguments that it has beyond keep defaults.

    Args:
        shapes: of each input, without the axis of the samples.

    Raises:
        InputError: it takes another number of inputs.
    """
    name, places = type(model).__name__, [0]
    for shape in shapes:
        places.append(places[-1] + math.prod(shape))
    parameters = [p for p in inspect.signature(model.forward).parameters.values() if p.kind != p.KEYWORD_ONLY]
    needed = [p.name for p in parameters if p.default is p.empty and p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)]
    open_ended = any(p.kind == p.VAR_POSITIONAL for p in parameters)
    if len(shapes) < len(needed) or (len(shapes) > len(parameters) and not open_ended):
        raise InputError(
            f"model={name}: takes {len(needed)} inputs ({', '.join(needed)}), and each item of the data has "
            f"{len(shapes)}"
        )
    kind = type(model)

    def forward(self: nn.Module, x: Tensor) -> Any:
        return kind.forward(self, *(_part(x, a, list(shape)) for a, shape in zip(places, shapes, strict=False)))

    made = copy.copy(model)
    made.__class__ = type(name, (kind,), {"forward": forward})
    return made
