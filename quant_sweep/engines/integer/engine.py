"""Inference by integer arithmetic only: between the quantized images and the logits there is no float.

Codes of 2 to 8 bits, int32 sums, int32 bias, requantization by a 32-bit multiplier and a shift. It is the reference
that the faster engines are held against: `simulate` rounds sums that are exact but for float32, half to even; here
each requantization is within one step of that, by the bound in `fixed_point`. Minutes for 10,000 small images.

Leaves out: whatever has no integer form (`fusion=none` keeps BatchNorm in float; sigmoid and its like are tables, but
products of tensors and layer norm are not), grids of more than 8 bits, GPUs.

Source: Jacob et al. 2018, arXiv:1712.05877, section 2.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.engines.base import Engine
from quant_sweep.engines.integer.elementwise import average_kernel, lookup_kernel, move_kernel, sum_kernel
from quant_sweep.engines.integer.layers import Logits, layer_kernel, pad_with
from quant_sweep.engines.integer.stored import Stored
from quant_sweep.engines.lowering import (
    Average,
    Compute,
    Dequantize,
    Kernel,
    Layer,
    Lookup,
    Lowered,
    Move,
    NetworkOfCodes,
    Pad,
    Program,
    Quantize,
    See,
    Step,
    Sum,
    check_layers,
    check_weights,
    codes_by_point,
    lower,
    node_kernel,
    why_unsupported,
)
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph

_IMAGES_AT_ONCE = 32  # int64 intermediates of more would leave the cache


@final
class Integer(Engine):
    """Integer-only arithmetic."""

    def build(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> IntegerOnlyNetwork:
        reason = why_unsupported(graph, {name: qparams[name].spec for name in graph.names if name in qparams})
        if reason is not None:
            raise InputError(f"engine=integer: {reason}; use engine=simulate")
        check_weights("integer", graph, qparams)
        lowered = lower(graph, qparams)
        check_layers("integer", graph, qparams, lowered)
        _check_integer_only(graph, lowered)
        with torch.no_grad():
            return IntegerOnlyNetwork(lowered, dict(graph.module.named_modules()), qparams)


@final
class IntegerOnlyNetwork(NetworkOfCodes):
    """Images to codes, codes to logits in integers, and these to real units. It stays on the CPU."""

    def __init__(self, lowered: Lowered, modules: Mapping[str, nn.Module], qparams: Mapping[str, QParams]) -> None:
        super().__init__()
        self.float_tensors = ()
        quantize, *steps, logits, _output = lowered.steps
        assert isinstance(logits, Layer)
        self._points = dict(lowered.points)
        self._input = quantize.out.name
        self._quantize = Stored.of(quantize.out.grid)
        head = Logits(logits, modules[logits.module], qparams[f"{logits.module}.weight"])
        self.logit_scale = head.scale  # real units of an integer logit
        self._program = Program(
            [*steps, logits], lambda step, _: head if step is logits else _kernel_of(step, modules, qparams)
        )

    @torch.no_grad()
    def forward(self, images: Tensor) -> Tensor:
        logits = [self.integer_logits(self.quantize(part)) for part in images.cpu().split(_IMAGES_AT_ONCE)]
        return (torch.cat(logits).to(torch.float64) * self.logit_scale).to(images.device, torch.float32)

    def quantize(self, images: Tensor) -> Tensor:
        """Normalised images on their grid, uint8."""
        return self._quantize.put(images)

    def integer_logits(self, u: Tensor) -> Tensor:
        """int32 (n, classes), of `logit_scale` real units each, from quantized images, without any float."""
        return self._run(u, lambda _name, _value: None)

    def codes(self, images: Tensor) -> dict[str, Tensor]:
        u = self.quantize(images.cpu())

        def run(see: See) -> None:
            see(self._input, u)
            self._run(u, see)

        return codes_by_point(self._points, run, lambda stored, grid: Stored.of(grid).codes(stored))

    @torch.no_grad()
    def _run(self, u: Tensor, see: See) -> Tensor:
        logits = self._program.run(self._input, u, see)
        assert isinstance(logits, Tensor)
        return logits


def _kernel_of(step: Step, modules: Mapping[str, nn.Module], qparams: Mapping[str, QParams]) -> Kernel:
    """What computes `step`; weights are frozen here."""
    match step:
        case Layer():
            try:
                return layer_kernel(step, modules[step.module], qparams[f"{step.module}.weight"])
            except InputError as error:
                raise InputError(f"engine=integer: {step.module}: {error}; use engine=simulate") from error
        case Lookup():
            return lookup_kernel(step, modules)
        case Average():
            return average_kernel(step, modules)
        case Sum():
            return sum_kernel(step)
        case Pad():
            padding, zero = list(step.padding), Stored.of(step.x.grid).zero
            return lambda u: pad_with(u, padding, zero)
        case Move():
            return move_kernel(step, modules)
        case Compute():
            return node_kernel(step.node, tuple(step.reads), modules)
        case _:
            raise TypeError(f"no kernel for {type(step).__name__}")


def _check_integer_only(graph: QuantGraph, lowered: Lowered) -> None:
    """Refuse a network that does not lead from quantized images to a layer's sums by integers alone."""
    if lowered.float_tensors:
        advice = "fusion=bn or conv_bn_relu, or engine=simulate" if graph.fusion.value == "none" else "engine=simulate"
        raise InputError(f"engine=integer: {lowered.float_tensors[0]} is computed in float; use {advice}")
    first, *steps, logits, output = lowered.steps
    begins = isinstance(first, Quantize) and first.x is lowered.images
    ends = isinstance(logits, Layer) and logits.out.grid is None and output.inputs == (logits.out,)
    within = not any(isinstance(step, Quantize | Dequantize) for step in steps)
    if not (begins and within and ends):
        raise InputError(
            "engine=integer: the network must begin with quantized images and end with a layer's sums; "
            "use engine=simulate"
        )
