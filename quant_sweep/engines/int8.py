"""Real integer arithmetic at any width up to 8 bits, on oneDNN's uint8 x int8 kernels.

The same grids as `simulate` give the same codes, but for values that lie within float rounding of a tie: both compute
sum(q_x * q_w) * scale + bias and round it, one from an exact 32-bit sum, the other from a float32 one. Codes stay
uint8 from layer to layer; what has no integer form is computed in float in between, and listed.

`lowering` decides what is computed how, `onednn` computes it. Leaves out: grids of more than 8 bits, GPUs, and weights
of 8 bits on CPUs without VNNI, where products of uint8 and int8 saturate at 16 bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.base import Engine
from quant_sweep.engines.lowering import (
    Lowered,
    NetworkOfCodes,
    Program,
    See,
    check_biases,
    check_weights,
    codes_by_quantizer,
    largest_product,
    lower,
    returned,
    why_unsupported,
    why_without_layers,
)
from quant_sweep.engines.onednn import Placed, kernel_of, why_not_exact
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph, weights_on_grid
from quant_sweep.runtime.threads import FEWEST_IMAGES, Workers, in_parts

# Images that pass through the network together, in each thread: enough to be worth a call of each kernel, and so few
# that the largest tensor between two layers stays in the CPU's cache.
_MOST_IMAGES, _CACHED_BYTES = 64, 2**22


@final
class Int8(Engine):
    """Integer kernels of the CPU."""

    def check(self, graph: QuantGraph, specs: Mapping[str, QuantSpec]) -> None:
        reason = why_unsupported(graph, specs) or why_without_layers(graph, specs)
        reason = reason or why_not_exact(*largest_product(graph, specs))
        if reason is not None:
            raise InputError(f"engine=int8: {reason}; use engine=simulate")

    def build(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> IntegerNetwork:
        self.check(graph, {name: qparams[name].spec for name in graph.names if name in qparams})
        check_weights("int8", graph, qparams)
        lowered = lower(graph, qparams)
        check_biases("int8", graph, lowered)
        with torch.no_grad():  # a layer whose input has no grid is computed in float, with the weight of its grid
            return IntegerNetwork(lowered, weights_on_grid(graph, qparams).constants, qparams)


@final
class IntegerNetwork(NetworkOfCodes):
    """The network on integer kernels. It stays on the CPU."""

    rounds = 1e-4  # exact sums, scaled in float32

    def __init__(self, lowered: Lowered, constants: Mapping[str, Tensor], qparams: Mapping[str, QParams]) -> None:
        super().__init__()
        self.float_tensors = lowered.float_tensors
        self._lowered = lowered
        self._images_at_once: int | None = None  # not known before images are seen
        self._workers = Workers()
        self._program = Program(
            lowered.steps,
            lowered.outputs,
            constants,
            lambda step, overwrite: kernel_of(step, constants, qparams, overwrite),
        )

    def forward(self, x: Tensor) -> Any:
        parts = in_parts(x, self._images_that_stay_in_cache(x[:FEWEST_IMAGES]))
        done = self._workers.map(lambda part: self._run(part, lambda _name, _value: None), parts)
        return returned(self._lowered, [torch.cat(pieces) for pieces in zip(*done, strict=True)])

    def _images_that_stay_in_cache(self, images: Tensor) -> int:
        """Found by a first run, which packs the weights too: the first thread to come does it for all."""
        with self._workers.turn:
            if self._images_at_once is None:
                sizes = [1]
                self._run(images, lambda _, value: sizes.append(value.nbytes) if isinstance(value, Tensor) else None)
                stay = _CACHED_BYTES * len(images) // max(sizes)
                self._images_at_once = min(max(stay, FEWEST_IMAGES), _MOST_IMAGES)
            return self._images_at_once

    def codes(self, x: Tensor) -> dict[str, Tensor]:
        return codes_by_quantizer(
            self._lowered.quantized, lambda see: self._run(x, see), lambda u, grid: u.int() - Placed.of(grid).offset
        )

    @torch.no_grad()
    def _run(self, x: Tensor, see: See) -> list[Tensor]:
        outputs = self._program.run(self._lowered.given.name, x.cpu(), see)
        return [output.to(x.device) for output in outputs]
