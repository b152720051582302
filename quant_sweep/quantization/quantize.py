"""The verb of the library: calibration + bits + observer -> a network that can be evaluated."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import nn

from quant_sweep.arithmetic.qparams import QParams
from quant_sweep.calibration.one_pass import Calibration, choose_qparams
from quant_sweep.engines import Engine, Simulate
from quant_sweep.observers import MinMax, Observer
from quant_sweep.quantization.scheme import AFFINE, BitWidths, Scheme, assign_specs


@dataclass(frozen=True, eq=False)
class Quantized:
    """A network in few bits.

    Attributes:
        network: normalised images, float32 (n, channels, height, width), to logits (n, classes).
        qparams: the grid of every quantized tensor, by its name.
    """

    network: nn.Module
    qparams: Mapping[str, QParams]


def quantize(
    calibration: Calibration,
    *,
    bits: int,
    observer: Observer,
    weight_observer: Observer | None = None,
    scheme: Scheme = AFFINE,
    overrides: Mapping[str, int] | None = None,
    engine: Engine | None = None,
) -> Quantized:
    """Quantize a calibrated network; the calibration serves any number of calls.

    Args:
        calibration: what `calibrate` returned.
        bits: width of weights and activations, 2 to 16.
        observer: chooses the ranges of activations.
        weight_observer: those of weights; MinMax() if None.
        scheme: the kind of grids.
        overrides: other widths for some tensors, see `BitWidths`.
        engine: what will compute; Simulate() if None.

    Raises:
        InputError: a width is not 2 to 16, an override names no tensor, or the engine cannot compute on the grids.
    """
    specs = assign_specs(calibration.graph, scheme, BitWidths(bits, bits, overrides or {}))
    chosen = choose_qparams(calibration, specs, observer, weight_observer or MinMax())
    qparams = scheme.tied(calibration.graph, chosen)
    return Quantized((engine or Simulate()).build(calibration.graph, qparams), qparams)
