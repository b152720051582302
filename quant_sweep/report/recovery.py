"""What each recovery won: the runs that differ in nothing but their recovery, beside each other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from quant_sweep.report.points import Bits, Point, newest
from quant_sweep.report.sections import shared_params, shortened

NOTE = (
    "What a recovery won over the run with one method less, in the unit of the metric. CPU seconds are those of all "
    "its methods together, spent once: later runs read what they made."
)
_BITS = ("bits", "weight_bits", "activation_bits")


def recovery_rows(points: Sequence[Point]) -> list[dict[str, str]]:
    """One row per finished run with a recovery and per run that it is compared with, widest first; [] without any."""
    finished = [point for point in points if point.measured]
    shared = shared_params(finished)
    groups: dict[tuple[tuple[str, str], ...], dict[str, list[Point]]] = {}
    for point in finished:
        params = {name: value for name, value in point.params.items() if not name.startswith("recovery")}
        alike = groups.setdefault(tuple(sorted(params.items())), {})
        alike.setdefault(point.params.get("recovery", "none"), []).append(point)
    recovered = [
        {name: newest(same) for name, same in alike.items()} for alike in groups.values() if set(alike) - {"none"}
    ]
    recovered.sort(key=lambda alike: _order(next(iter(alike.values()))))
    labels = {point.metric.label for alike in recovered for point in alike.values()}
    header = labels.pop() if len(labels) == 1 else None
    return [
        _row(alike, name, shared, header)
        for alike in recovered
        for name in sorted(alike, key=lambda n: (n != "none", n))
    ]


def _order(point: Point) -> tuple[str, int, Bits, str]:
    bits = Bits.of(point.params)
    return point.params.get("model", ""), -bits.total, bits, point.params.get("overrides", "")


def _row(alike: Mapping[str, Point], name: str, shared: Mapping[str, str], header: str | None) -> dict[str, str]:
    """Args: header: what all runs measure; None where they measure several things."""
    point = alike[name]
    differing = {
        key: value
        for key, value in sorted(point.params.items())
        if key not in shared and key not in (*_BITS, "model", "data") and not key.startswith("recovery")
    }
    before = _one_method_less(alike, name)
    assert point.measured
    metric = point.metric
    won = (
        metric.shown(metric.lost(before.measured.value, point.measured.value) * -1, sign=True)
        if before and before.measured
        else ""
    )
    seconds = point.metrics.get("recovery_seconds")
    return {
        "model": f"{point.params.get('model', 'model')} on {point.params.get('data', 'data')}",
        "bits": str(Bits.of(point.params)),
        "settings": ", ".join(f"{key}={shortened(value)}" for key, value in differing.items()),
        "recovery": name,
        **({} if header else {"metric": metric.label}),
        header or "measured": str(point.measured) if header else point.measured.with_unit,
        "won": won,
        "CPU seconds": "" if seconds is None else f"{seconds:.1f}",
        "left out": point.tags.get("recovery_left_out", ""),
    }


def _one_method_less(alike: Mapping[str, Point], name: str) -> Point | None:
    """The run with the longest beginning of the methods of `name`; that without any at last."""
    methods = name.split("+")
    shorter = ("+".join(methods[:count]) or "none" for count in range(len(methods) - 1, -1, -1))
    return None if name == "none" else next((alike[other] for other in shorter if other in alike), None)
