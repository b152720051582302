"""The verb of the library: calibration + budget -> how many bits each tensor should have."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from quant_sweep.calibration.one_pass import Calibration
from quant_sweep.errors import InputError
from quant_sweep.evaluation.budget import Budget
from quant_sweep.evaluation.search_widths import Allocation, Search
from quant_sweep.evaluation.tensor_damages import Widths, tensor_damages
from quant_sweep.graph import QuantGraph, after_clamp
from quant_sweep.observers import MinMax, Observer
from quant_sweep.quantization.allocation import network_size, sharing_groups
from quant_sweep.quantization.assignment import ALLOWED, checked_assignment
from quant_sweep.quantization.quantize import recovered
from quant_sweep.quantization.scheme import AFFINE, FLOAT, BitWidths, Scheme, Width, assign_specs
from quant_sweep.recovery import OnGrids, Recovery, split_off

WIDTHS: tuple[Width, ...] = (2, 3, 4, 5, 6, 7, 8, FLOAT)
STEPS = 3
_BATCH = 16  # inputs at once; what the network makes of them is kept while widths are tried


def allocate(
    calibration: Calibration,
    *,
    budget: Budget,
    observer: Observer,
    weight_observer: Observer | None = None,
    scheme: Scheme = AFFINE,
    overrides: Mapping[str, Width] | None = None,
    recovery: Sequence[Recovery] = (),
    widths: Sequence[Width] = WIDTHS,
    steps: int = STEPS,
) -> Allocation:
    """Give every tensor of a calibrated network its bits, within a budget.

    Args:
        calibration: of a list of batches, which are read again; every 8th input judges.
        budget: what the network may cost.
        observer, weight_observer, scheme, recovery: as in `quantize`, for which the result is meant.
        overrides: widths that are settled, by tensor or leading part of its name.
        widths: the choices for all other tensors; at least one whole number.
        steps: how many assignments are made and measured beside the uniform ones.

    Returns:
        `chosen.widths` is what `quantize` takes as `overrides`.

    Raises:
        InputError: no assignment keeps to the budget, or a value is not allowed.
    """
    check_recoveries({type(method).__name__: method for method in recovery})
    if calibration.batches is None:
        raise InputError("allocate: it reads the images again; give calibrate() a list or tuple of batches")
    graph, batches = calibration.graph, calibration.batches
    kept_out = judging_batches(batches)

    def make(assigned: Widths) -> OnGrids:
        specs = assign_specs(graph, scheme, BitWidths(8, 8, assigned))
        return recovered(calibration, specs, observer, weight_observer or MinMax(), scheme, recovery)[0]

    choices = width_choices(graph, scheme, checked_assignment(overrides or {}), widths)
    search = Search(
        original=graph,
        size=network_size(graph),
        groups=sharing_groups(graph, after_clamp(graph) if scheme.same_grid_around_relu else {}),
        choices=choices,
        judges=kept_out,
        make=make,
        damages=lambda weights, activations: tensor_damages(graph, weights, activations, choices, kept_out),
    )
    return search.run(budget, steps)


def check_recoveries(recoveries: Mapping[str, Recovery]) -> None:
    """Refuse methods whose weights fit a float network of their own: a tensor is measured among those of the original.

    Args:
        recoveries: by the name that the person gave.

    Raises:
        InputError: naming the first.
    """
    for name, method in recoveries.items():
        if type(method).same_network is not Recovery.same_network:
            raise InputError(
                f"recovery={name}: the search for widths measures each tensor in the float network, whose channels "
                "this method scales; allowed are the methods that leave them as they are"
            )


def judging_batches(batches: Iterable[Tensor]) -> list[Tensor]:
    """The inputs that no recovery sees, as `in_batches`.

    Raises:
        InputError: there are fewer than 8 inputs.
    """
    _, kept_out = split_off(batches)
    return in_batches(torch.cat(kept_out))


def in_batches(inputs: Tensor) -> list[Tensor]:
    """Inputs (n, ...) in batches whose values fit into memory, channels side by side."""
    layout = torch.channels_last if inputs.dim() == 4 else torch.contiguous_format
    return [batch.contiguous(memory_format=layout) for batch in inputs.split(_BATCH)]


def width_choices(
    graph: QuantGraph, scheme: Scheme, settled: Widths, widths: Sequence[Width]
) -> dict[str, tuple[Width, ...]]:
    """The widths that each tensor may have; the one that is settled, where one is.

    Raises:
        InputError: a width is none, none is a whole number, or a settled name is no tensor's.
    """
    for width in widths:
        try:
            checked_assignment({"": width})
        except InputError as error:
            raise InputError(f"widths={list(widths)}: allowed are {ALLOWED}") from error
    if not any(width != FLOAT for width in widths):
        raise InputError(f"widths={list(widths)}: at least one must be a whole number")
    specs = {bits: assign_specs(graph, scheme, BitWidths(bits, bits, settled)) for bits in (2, 3)}
    found: dict[str, tuple[Width, ...]] = {}
    for name in graph.names:
        low, high = (specs[bits].get(name) for bits in (2, 3))
        if low is None:
            found[name] = (FLOAT,)
        else:
            assert high is not None
            found[name] = (low.bits,) if low.bits == high.bits else tuple(dict.fromkeys(widths))
    return found
