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
from dataclasses import replace
from typing import Any, final

import torch
from torch import Tensor

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.engines.base import Engine
from quant_sweep.engines.integer.elementwise import average_kernel, lookup_kernel, move_kernel, sum_kernel
from quant_sweep.engines.integer.layers import Logits, layer_kernel, pad_with
from quant_sweep.engines.integer.stored import Stored
from quant_sweep.engines.lowering import (
    Compute,
    Dequantize,
    Kernel,
    Layer,
    Lookup,
    Lowered,
    Moved,
    NetworkOfCodes,
    Padded,
    PooledAverage,
    Program,
    Quantize,
    See,
    Step,
    Sum,
    check_biases,
    check_layers,
    check_weights,
    codes_by_quantizer,
    computes_on_uint8,
    lower,
    returned,
    why_unsupported,
)
from quant_sweep.errors import InputError
from quant_sweep.graph import QuantGraph
from quant_sweep.graph.operations import AdaptiveMaxPool, MaxPool

_IMAGES_AT_ONCE = 32  # int64 intermediates of more would leave the cache


@final
class Integer(Engine):
    """Integer-only arithmetic."""

    def check(self, graph: QuantGraph, specs: Mapping[str, QuantSpec]) -> None:
        reason = why_unsupported(graph, specs)
        if reason is not None:
            raise InputError(f"engine=integer: {reason}; use engine=simulate")
        _lowered(graph, {name: _unit_grid(spec) for name, spec in specs.items()})

    def build(self, graph: QuantGraph, qparams: Mapping[str, QParams]) -> IntegerOnlyNetwork:
        reason = why_unsupported(graph, {name: qparams[name].spec for name in graph.names if name in qparams})
        if reason is not None:
            raise InputError(f"engine=integer: {reason}; use engine=simulate")
        check_weights("integer", graph, qparams)
        lowered = _lowered(graph, qparams)
        with torch.no_grad():
            return IntegerOnlyNetwork(lowered, graph.graph.constants, qparams)


def _unit_grid(spec: QuantSpec) -> QParams:
    """A grid of steps of 1, for what depends on its kind alone."""
    return QParams(torch.tensor(1.0), torch.tensor(0, dtype=torch.int32), replace(spec, channel_axis=None))


def _lowered(graph: QuantGraph, qparams: Mapping[str, QParams]) -> Lowered:
    """The steps of `graph`, all of them in integers.

    Raises:
        InputError: one is not.
    """
    lowered = lower(graph, qparams)
    check_layers(graph, qparams, lowered)
    check_biases("integer", graph, lowered)
    _check_integer_only(graph, lowered)
    return lowered


@final
class IntegerOnlyNetwork(NetworkOfCodes):
    """Images to codes, codes to logits in integers, and these to real units. It stays on the CPU."""

    # What the fixed-point factor is off; what the bias is; half a fine step each where two are added up.
    rounds = 2.0**-8 + 2.0**-9 + 2.0**-11

    def __init__(self, lowered: Lowered, constants: Mapping[str, Tensor], qparams: Mapping[str, QParams]) -> None:
        super().__init__()
        self.float_tensors = ()
        quantize, *steps, logits = lowered.steps
        assert isinstance(logits, Layer)
        self._lowered = lowered
        self._input = quantize.out.name
        self._quantize = Stored.of(quantize.out.grid)
        head = Logits(logits, constants, qparams[logits.weight])
        self.logit_scale = head.scale  # real units of an integer logit
        self._program = Program(
            [*steps, logits],
            [logits.out],
            constants,
            lambda step, _: head if step is logits else _kernel_of(step, constants, qparams),
        )

    @torch.no_grad()
    def forward(self, x: Tensor) -> Any:
        logits = [self.integer_logits(self.quantize(part)) for part in x.cpu().split(_IMAGES_AT_ONCE)]
        real = (torch.cat(logits).to(torch.float64) * self.logit_scale).to(x.device, torch.float32)
        return returned(self._lowered, [real])

    def quantize(self, images: Tensor) -> Tensor:
        """Normalised images on their grid, uint8."""
        return self._quantize.put(images)

    def integer_logits(self, u: Tensor) -> Tensor:
        """int32 (n, classes), of `logit_scale` real units each, from quantized images, without any float."""
        return self._run(u, lambda _name, _value: None)

    def codes(self, x: Tensor) -> dict[str, Tensor]:
        u = self.quantize(x.cpu())

        def run(see: See) -> None:
            see(self._input, u)
            self._run(u, see)

        return codes_by_quantizer(self._lowered.quantized, run, lambda stored, grid: Stored.of(grid).codes(stored))

    @torch.no_grad()
    def _run(self, u: Tensor, see: See) -> Tensor:
        (logits,) = self._program.run(self._input, u, see)
        assert isinstance(logits, Tensor)
        return logits


def _kernel_of(step: Step, constants: Mapping[str, Tensor], qparams: Mapping[str, QParams]) -> Kernel:
    """What computes `step`; weights are frozen here."""
    match step:
        case Layer():
            try:
                return layer_kernel(step, constants, qparams[step.weight])
            except InputError as error:
                raise InputError(f"engine=integer: {step.weight}: {error}; use engine=simulate") from error
        case Lookup():
            return lookup_kernel(step, constants)
        case PooledAverage():
            return average_kernel(step)
        case Sum():
            return sum_kernel(step)
        case Padded():
            padding, zero = list(step.padding), Stored.of(step.x.grid).zero
            return lambda u: pad_with(u, padding, zero)
        case Moved():
            return move_kernel(step)
        case _:
            raise TypeError(f"no kernel for {type(step).__name__}")


def _check_integer_only(graph: QuantGraph, lowered: Lowered) -> None:
    """Refuse a network that does not lead from quantized images to a layer's sums by integers alone."""
    if lowered.float_tensors:
        advice = "fusion=bn or conv_bn_relu, or engine=simulate" if graph.fusion.value == "none" else "engine=simulate"
        raise InputError(f"engine=integer: {lowered.float_tensors[0]} is computed in float; use {advice}")
    steps = lowered.steps[1:-1]
    first, last = (lowered.steps[0], lowered.steps[-1]) if lowered.steps else (None, None)
    begins = isinstance(first, Quantize) and first.x is lowered.given
    ends = isinstance(last, Layer) and last.out.grid is None and lowered.outputs == (last.out,)
    within = not any(
        isinstance(step, Quantize | Dequantize | Compute) or lowered.given in step.inputs for step in steps
    )
    if not (begins and within and ends):
        raise InputError(
            "engine=integer: the network must begin with quantized images and end with a layer's sums; "
            "use engine=simulate"
        )
    for step in steps:
        if (
            isinstance(step, Moved)
            and not computes_on_uint8(step)
            and not isinstance(step.operation, MaxPool | AdaptiveMaxPool)
        ):
            raise InputError(
                f"engine=integer: {step.out.name} is moved by an operation that torch has for floats only; "
                "use engine=simulate"
            )
