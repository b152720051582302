"""A metric of one's own."""

from torch import Tensor

from quant_sweep import metric


@metric(name="box_error", unit="px", higher_is_better=False)
def box_error(outputs: dict[str, Tensor], float_outputs: dict[str, Tensor], labels: Tensor) -> Tensor:
    """How far the sides of each box are off on average, (n,)."""
    del float_outputs
    return (outputs["boxes"] - labels).abs().mean(dim=1)
