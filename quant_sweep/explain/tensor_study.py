"""What a grid does to one tensor, and what other grids would: the trade-off that an observer has to make.

Rounding error grows with the range that the codes are spread over, clipping error with what is left outside.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import final

from torch import Tensor

from quant_sweep import observers
from quant_sweep.arithmetic.affine import qparams_from_range, sqnr_db
from quant_sweep.arithmetic.qparams import QParams, QuantSpec
from quant_sweep.calibration.one_pass import observe
from quant_sweep.explain.tensor_errors import Values
from quant_sweep.histograms.histogram import Histogram
from quant_sweep.observers import Observer

WIDTHS = tuple(range(2, 9))
_KEPT = tuple(k / 100 for k in range(100, 4, -1))  # of the full range, 100 % to 5 %


@final
@dataclass(frozen=True)
class Choice:
    """What one observer chose for a tensor.

    Attributes:
        observer: its name.
        lo, hi: ends of the grid, real units; of a grid per channel the outermost.
        kept: width of the range over that of all that was seen; of a grid per channel the mean over the channels.
        clipped: share of values that saturation moves.
        rounding, clipping: their errors.
        sqnr_db: by bit width, what the observer reaches if it is asked for that width.
    """

    observer: str
    lo: float
    hi: float
    kept: float
    clipped: float
    rounding: float
    clipping: float
    sqnr_db: Mapping[int, float]

    @property
    def error(self) -> float:
        return self.rounding + self.clipping


@final
@dataclass(frozen=True)
class TradeOff:
    """Errors as the range is narrowed from both ends, by the share of it that is kept."""

    kept: tuple[float, ...]
    rounding: tuple[float, ...]
    clipping: tuple[float, ...]


@final
@dataclass(frozen=True)
class TensorStudy:
    """One tensor and what observers make of it.

    Attributes:
        name: of the tensor.
        spec: its grid.
        count: number of values.
        lo, hi: smallest and largest value.
        edges, counts: histogram; one edge more than counts.
        used: the choice of the run; the others are what the observers would have chosen.
        choices: one per observer, by name.
    """

    name: str
    spec: QuantSpec
    count: int
    lo: float
    hi: float
    edges: tuple[float, ...]
    counts: tuple[int, ...]
    used: str
    choices: Mapping[str, Choice]
    trade_off: TradeOff


def study(
    name: str,
    values: Values,
    spec: QuantSpec,
    used: Observer,
    grid: QParams,
    widths: Collection[int] = WIDTHS,
) -> TensorStudy:
    """Ask every observer, and narrow the range step by step.

    Args:
        spec: of the tensor's grid.
        used: the observer of the run; the others have their defaults.
        grid: what the run chose, which need not be what `used` says where calibration was sequential.
        widths: for which to ask the observers, beside that of the grid.
    """
    total = values.histogram
    edges, counts = _thinned(total)
    choices = {of: _choice(of, observer, values, spec, widths) for of, observer in all_observers(used).items()}
    own = name_of(used)
    choices[own] = _judged(own, values, grid, choices[own].sqnr_db)
    return TensorStudy(
        name=name,
        spec=spec,
        count=int(total.total),
        lo=float(total.lo),
        hi=float(total.hi),
        edges=edges,
        counts=counts,
        used=own,
        choices=choices,
        trade_off=_trade_off(values, spec),
    )


def all_observers(used: Observer) -> dict[str, Observer]:
    """Every observer by its name, `used` with its own parameters."""
    classes = [getattr(observers, name) for name in observers.__all__]
    defaults = {name_of(observer): observer for observer in (cls() for cls in classes if cls is not Observer)}
    return dict(sorted((defaults | {name_of(used): used}).items()))


def name_of(observer: Observer) -> str:
    """As on the command line: that of its file."""
    return type(observer).__module__.rpartition(".")[2]


def _choice(name: str, observer: Observer, values: Values, spec: QuantSpec, widths: Collection[int]) -> Choice:
    summary, asked = values.summary, sorted({*widths, spec.bits})
    grids = {bits: observe(summary, replace(spec, bits=bits), observer) for bits in asked}
    return _judged(
        name, values, grids[spec.bits], {b: sqnr_db(1.0, sum(values.errors(g))).item() for b, g in grids.items()}
    )


def _judged(name: str, values: Values, grid: QParams, by_width: Mapping[int, float]) -> Choice:
    rounding, clipping = values.errors(grid)
    full = values.summary.total
    widest = qparams_from_range(*_ends(full, grid.spec, 1.0), grid.spec)
    kept = (grid.scale.double() / widest.scale.double()).mean()
    return Choice(
        observer=name,
        lo=float(grid.lo.min()),
        hi=float(grid.hi.max()),
        kept=float(kept),
        clipped=values.clipped(grid),
        rounding=rounding,
        clipping=clipping,
        sqnr_db={**by_width, grid.spec.bits: sqnr_db(1.0, rounding + clipping).item()},
    )


def _trade_off(values: Values, spec: QuantSpec) -> TradeOff:
    full = values.summary.total
    errors = [values.errors(qparams_from_range(*_ends(full, spec, kept), spec)) for kept in _KEPT]
    rounding, clipping = zip(*errors, strict=True)
    return TradeOff(_KEPT, rounding, clipping)


def _ends(full: Histogram, spec: QuantSpec, kept: float) -> tuple[Tensor, Tensor]:
    ends = (full.lo.clamp(max=0.0) * kept, full.hi.clamp(min=0.0) * kept)
    return ends if spec.channel_axis is not None else (ends[0][0], ends[1][0])


def _thinned(histogram: Histogram, most: int = 256) -> tuple[tuple[float, ...], tuple[int, ...]]:
    """Edges and counts of the bins that hold something, neighbours added up until they are few."""
    counts, edges = histogram.counts[0], histogram.edges[0]
    filled = counts.nonzero().flatten()
    begin, end = int(filled[0]), int(filled[-1]) + 1
    together = -(-(end - begin) // most)
    parts = counts[begin:end].split(together)
    starts = range(begin, end, together)
    thin_edges = [*(float(edges[i]) for i in starts), float(edges[min(starts[-1] + together, histogram.bins)])]
    return tuple(thin_edges), tuple(int(part.sum()) for part in parts)
