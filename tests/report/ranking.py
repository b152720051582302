"""A ranking of sensitivities, made by hand."""

import math

import pandas as pd

from quant_sweep.report import SensitivityTable

COLUMNS = ["name", "kind", "tensors", "accuracy_drop", "logit_kl", "logit_sqnr_db", "own_sqnr_db"]


def table(layers: int = 2, images: int = 1000) -> SensitivityTable:
    """Layer 0 suffers most; the last activation is read by no layer, and rounding it changes nothing."""
    rows: list[list[object]] = [["whole network", "network", "all of them", 6.5, 0.45, 7.1, math.nan]]
    for i in range(layers):
        kl = 0.2 / (i + 1)
        rows.append([f"block{i}.conv", "layer", f"block{i}.conv.weight x{i}", 3.0 - i, kl, 11.0 + i, math.nan])
        rows.append([f"x{i}", "activation", f"x{i}", 2.0 - i, kl * 0.7, 12.0, 22.0])
        rows.append([f"block{i}.conv.weight", "weight", f"block{i}.conv.weight", 1.0, kl * 0.3, 13.0, 19.0])
    rows.append(["pool.output", "activation", "pool.output", 0.0, 0.0, math.inf, math.inf])
    frame = pd.DataFrame(rows, columns=COLUMNS).sort_values("logit_kl", ascending=False, ignore_index=True)
    return SensitivityTable("net mse 4 bits", images, 10000, 93.1, frame)
