"""How far the outputs of a quantized network are from those of the float network.

For logits it is the Kullback-Leibler divergence of the classes at a temperature T, times T^2. Of the images that a
network was trained on it is sure of nearly all: at T = 1 few of them make up the whole mean. At T = 4 the same
difference between two networks stands out of the noise of the draw with a third of the images (docs/recovery.md).

Source: Hinton et al. 2015, arXiv:1503.02531, for the temperature and its square.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

TEMPERATURE = 4.0


def divergence(wanted: Tensor, found: Tensor, temperature: float = TEMPERATURE) -> Tensor:
    """Of one output.

    Args:
        wanted, found: of the float network and the quantized one; logits (n, classes), or any other numbers (n, ...).
        temperature: by which logits are divided.

    Returns:
        mean over the inputs, nats; of outputs that are no logits, the squared error as a share of the mean square. ().
    """
    if wanted.dim() == 2 and wanted.shape[1] > 1:
        p, q = (F.log_softmax(logits / temperature, dim=1) for logits in (wanted, found))
        return F.kl_div(q, p, log_target=True, reduction="batchmean") * temperature**2
    return (wanted - found).square().sum() / wanted.square().sum().clamp(min=1e-30)
