"""The verb of the library: calibration + bits + observer + recoveries -> a network that can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import Calibration, choose_qparams
from quant_sweep.engines import Auto, Engine
from quant_sweep.errors import InputError
from quant_sweep.observers import MinMax, Observer
from quant_sweep.quantization.assignment import checked_assignment, read_assignment
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, Width, assign_specs
from quant_sweep.recovery import Inputs, OnGrids, Recovery, Step, recover


@dataclass(frozen=True, eq=False)
class Quantized:
    """A network in few bits.

    Attributes:
        network: normalised images, float32 (n, channels, height, width), to logits (n, classes).
        qparams: the grid of every quantized tensor, by its name.
        recovery: what each recovery did, in their order.
    """

    network: nn.Module
    qparams: Mapping[str, QParams]
    recovery: tuple[Step, ...] = ()


def quantize(
    calibration: Calibration,
    *,
    bits: int | None = None,
    weight_bits: int | None = None,
    activation_bits: int | None = None,
    observer: Observer,
    weight_observer: Observer | None = None,
    scheme: Scheme = AFFINE,
    overrides: Mapping[str, Width] | str | Path | None = None,
    recovery: Sequence[Recovery] = (),
    more: Inputs | None = None,
    engine: Engine | None = None,
) -> Quantized:
    """Quantize a calibrated network; the calibration serves any number of calls.

    Args:
        calibration: what `calibrate` returned.
        bits: width of weights and activations, 2 to 16, where weight_bits or activation_bits does not say another.
        observer: chooses the ranges of activations.
        weight_observer: those of weights; MinMax() if None.
        scheme: the kind of grids.
        overrides: other widths for some tensors, see `BitWidths`; or a file of them, see `read_assignment`.
        recovery: methods that win back what is lost, in their order; they see the images of the calibration.
        more: float32 (n, ...), on the device to use: what recoveries that learn see in place of these; some thousands.
        engine: what will compute; if None integer kernels where they compute exactly, else the simulation, as the
            command has it.

    Raises:
        InputError: a width is not 2 to 16, an override names no tensor, the engine cannot compute on the grids, or
            a recovery has no images to see.
    """
    graph = calibration.graph
    if isinstance(overrides, str | Path):
        overrides = read_assignment(Path(overrides))
    single = checked_assignment(overrides or {})
    widths = BitWidths(_width(weight_bits, bits), _width(activation_bits, bits), single)
    specs = assign_specs(graph, scheme, widths)
    quantized, steps = recovered(calibration, specs, observer, weight_observer or MinMax(), scheme, recovery, more)
    if engine is None:
        device = calibration.batches[0].device if calibration.batches else torch.device("cpu")
        engine = Auto().choose(graph, specs, device).engine
    return Quantized(engine.build(quantized.graph, quantized.qparams), quantized.qparams, steps)


def recovered(
    calibration: Calibration,
    specs: Mapping[str, QuantSpec],
    observer: Observer,
    weight_observer: Observer,
    scheme: Scheme,
    recovery: Sequence[Recovery],
    more: Inputs | None = None,
) -> tuple[OnGrids, tuple[Step, ...]]:
    """The network on its grids, recovered, and what each recovery did; for no engine in particular.

    Raises:
        InputError: as `quantize`.
    """
    graph = calibration.graph
    quantized = OnGrids(graph, scheme.tied(graph, choose_qparams(calibration, specs, observer, weight_observer)))
    if not recovery:
        return quantized, ()
    if calibration.batches is None:
        raise InputError("recovery: it reads the images again; give calibrate() a list or tuple of batches")
    made = recover(graph, quantized, calibration.batches, {str(i): step for i, step in enumerate(recovery)}, more)
    return made.on_grids(), tuple(made.steps.values())


def _width(own: int | None, both: int | None) -> int:
    width = both if own is None else own
    if width is None:
        raise InputError("bits=None: give bits, or weight_bits and activation_bits; allowed are whole numbers 2 to 16")
    return width
