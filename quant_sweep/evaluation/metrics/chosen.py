"""Which metric to take when nobody says: what the labels are for decides."""

from __future__ import annotations

from torch import Tensor


def auto(*, labels: Tensor | None, output: str | None = None) -> str:
    """The name of a choice of `conf/metric/`.

    Args:
        labels: of the test samples, (n, ...); None where there are none.
        output: see `Metric`; the choice gets it too.
    """
    del output
    if labels is None:
        return "agreement"
    if labels.is_floating_point():
        return "mse"
    return "top1" if labels.dim() == 1 else "miou"
