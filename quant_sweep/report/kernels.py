"""What runs on integer kernels measured about themselves: how far they are from the simulation of the same grids."""

from __future__ import annotations

from collections.abc import Sequence

from quant_sweep.report.points import Bits, Point

NOTE = (
    "Each run on integer kernels held them against `engine=simulate` on the same grids: the lowest share of images "
    "with the same class, the largest difference of a code that both computed from equal inputs, and the largest "
    "share of such codes that differ. A value within float rounding of a tie may go to either side."
)


_MEASURED = ("simulate_images", "simulate_agreement", "simulate_largest_lsb", "simulate_differing_codes")


def agreement_rows(points: Sequence[Point]) -> list[dict[str, str]]:
    """One row per model, data and bit width of what finished on integer kernels, widest first; the worst of each."""
    measured = [p for p in points if p.status == "finished" and set(_MEASURED) <= set(p.metrics)]
    groups: dict[tuple[str, str, Bits], list[dict[str, float]]] = {}
    for point in measured:
        subject = (point.params.get("model", "model"), point.params.get("data", "data"), Bits.of(point.params))
        groups.setdefault(subject, []).append(point.metrics)
    ordered = sorted(groups.items(), key=lambda item: (item[0][:2], -item[0][2].total, item[0][2]))
    return [_row(*subject, group) for subject, group in ordered]


def _row(model: str, data: str, bits: Bits, group: Sequence[dict[str, float]]) -> dict[str, str]:
    def worst(name: str) -> float:
        return max(metrics[name] for metrics in group)

    return {
        "model": f"{model} on {data}",
        "bits": str(bits),
        "runs": str(len(group)),
        "images": f"{min(metrics['simulate_images'] for metrics in group):.0f}",
        "same class": f"{min(metrics['simulate_agreement'] for metrics in group):.2f} %",
        "largest difference": f"{worst('simulate_largest_lsb'):.0f} LSB",
        "codes that differ": f"{100 * worst('simulate_differing_codes'):.2g} %",
    }
