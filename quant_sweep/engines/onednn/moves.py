"""What selects, moves or compares codes: torch's own operations, but for max-pooling."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from quant_sweep.engines.lowering import Kernel, Move, bound, node_kernel

# torch's own max-pooling has no uint8 kernels, or ones that take images of at most 255 pixels.
_OTHER_MAX_POOLS = (nn.MaxPool1d, nn.MaxPool3d, nn.AdaptiveMaxPool2d)
_OTHER_MAX_POOL_FUNCTIONS = {F.max_pool1d, F.adaptive_max_pool2d}


def move_kernel(step: Move, modules: Mapping[str, nn.Module]) -> Kernel:
    """What selects, moves or compares codes."""
    node = step.node
    if node.op == "call_method" and node.target == "contiguous":
        return lambda u, *_: u  # codes stay channels last
    module = modules[str(node.target)] if node.op == "call_module" else None
    if isinstance(module, nn.MaxPool2d):
        geometry = (module.kernel_size, module.stride, module.padding, module.dilation, module.ceil_mode)
        return lambda u: _max_pool2d(u, *geometry)
    if node.target is F.max_pool2d:
        return bound(_max_pool2d, node, tuple(step.reads))
    kernel = node_kernel(node, tuple(step.reads), modules)
    if isinstance(module, _OTHER_MAX_POOLS) or node.target in _OTHER_MAX_POOL_FUNCTIONS:
        return lambda u, *rest: kernel(u.to(torch.float32), *rest).to(torch.uint8)
    return kernel


def _max_pool2d(
    input: Tensor,  # the names of torch.nn.functional's arguments
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,  # lowering leaves out where it is asked for
) -> Tensor:
    """Max-pooling of codes, ten times faster than through float."""
    assert not return_indices
    sizes = [_pair(size) for size in (kernel_size, stride or kernel_size, padding, dilation)]
    return torch.ops.quantized.max_pool2d.default(input, *sizes, ceil_mode)  # type: ignore[no-any-return]


def _pair(size: Any) -> list[int]:
    return [size, size] if isinstance(size, int) else list(size) * (2 // len(size))
