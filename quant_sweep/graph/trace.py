"""From a model to an exported program, whose sizes tell which of them count the images.

torch.export runs the model on tensors without values. With one number of images that stands for any, all sizes are
plain numbers, which for a small network takes a third of the time that symbols take. A model that does more with the
number of images than to count by it is traced with a symbol: that says what cannot be captured, and why.
"""

from __future__ import annotations

import functools
import inspect
import math
from typing import Any, final

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram, export
from torch.overrides import TorchFunctionMode

from quant_sweep.graph.aten import MANY_IMAGES

_MOST_IMAGES = 4096  # of a batch, as torch.export wants to know it; nothing here depends on it


def traced_for_many(own: nn.Module, images: Tensor, most_calls: int) -> ExportedProgram:
    """The program of `own` for `MANY_IMAGES` images; `own` may keep tensors without values.

    Args:
        images: (n, ...); what one is like.
        most_calls: of torch's functions; a model that makes more works on each image by itself, which would take hours.

    Raises:
        Exception: of any kind; the model cannot be traced like this.
    """
    with FakeTensorMode(allow_non_fake_inputs=True):
        many = torch.empty(MANY_IMAGES, *images.shape[1:], dtype=images.dtype)
    kind = type(own)
    own.__class__ = _ending_after(most_calls, kind)  # its `self` has to be the one that torch.export passes
    try:
        return export(own, (many,), strict=False)
    finally:
        own.__class__ = kind


def _ending_after(most_calls: int, kind: type[nn.Module]) -> type[nn.Module]:
    @functools.wraps(kind.forward)
    def forward(self: nn.Module, *args: Any, **kwargs: Any) -> Any:
        with Calls(most_calls):
            return kind.forward(self, *args, **kwargs)

    return type(kind.__name__, (kind,), {"forward": forward})


def traced_with_a_symbol(own: nn.Module, images: Tensor) -> ExportedProgram:
    """The program of `own` for any number of images.

    Raises:
        Exception: of any kind, with a message of torch's.
    """
    of_batch: Any = {0: Dim("images", min=1, max=_MOST_IMAGES)}
    (first, *_) = inspect.signature(own.forward).parameters.values()
    shapes = ((of_batch,),) if first.kind is first.VAR_POSITIONAL else (of_batch,)
    return export(own, (images[:2],), dynamic_shapes=shapes, strict=False)


def release_symbols(graph: fx.Graph) -> None:
    """Take apart the symbolic shapes of an export: they refer to themselves through C++, where Python's collector does
    not look, and would stay for good, some hundred kilobytes of each network."""
    for node in graph.nodes:
        mode = getattr(node.meta.get("val"), "fake_mode", None)
        if mode is not None and mode.shape_env is not None:
            vars(mode.shape_env).clear()


@final
class Calls(TorchFunctionMode):
    """Counts calls of torch's functions, and ends a run that makes more than `most`."""

    def __init__(self, most: float = math.inf) -> None:
        super().__init__()
        self.count, self.most = 0, most

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += 1
        if self.count > self.most:
            raise RuntimeError("more calls for many images than for a few")
        return func(*args, **(kwargs or {}))
