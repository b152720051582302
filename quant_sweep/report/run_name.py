"""What a run is called: the axes of the sweep first, since MLflow's pages cut names after some 25 characters."""

from __future__ import annotations

from collections.abc import Mapping

_USUAL = {"scheme": "affine", "calibration": "one_pass", "recovery": "none"}  # not told


def run_name(params: Mapping[str, object], engine: str) -> str:
    """`4b mse conv_bn_relu int8 resnet20`, and between the last two what is not as usual.

    Args:
        params: of the run: weight_bits, activation_bits, observer, fusion, model, and those of `_USUAL`.
        engine: the one that computes.
    """
    weights, activations = params["weight_bits"], params["activation_bits"]
    bits = f"{weights}b" if weights == activations else f"W{weights}A{activations}"
    unusual = [str(params[key]) for key, usual in _USUAL.items() if params.get(key, usual) != usual]
    return " ".join(
        [bits, *(str(params[key]) for key in ("observer", "fusion")), engine, *unusual, str(params["model"])]
    )
