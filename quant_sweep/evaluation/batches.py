"""A network over a set of samples, batch by batch.

On a CPU the threads take samples of their own through a network of codes, normalisation included: what one thread
computes in between leaves the others to spin. In a float network they share each layer, which is as fast, and asks
nothing of a person's own module, which may not be made for several threads; it is given as many samples as stay in the
cache.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from quant_sweep.data import DataSet, ImageSet
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.errors import NotFiniteError
from quant_sweep.graph import Network
from quant_sweep.graph.interpret import relative_difference
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.in_cache import images_that_stay_in_cache, largest_bytes_an_image
from quant_sweep.runtime.threads import Workers, in_parts

_ROUNDING = 1e-3  # relative difference that another order of sums may leave
# Of a float network, whose layers all threads share: about the second-level cache of two cores.
_CACHED_BYTES, _FEWEST_IMAGES = 2**21, 8


@full_precision()
def over_batches(
    network: nn.Module,
    data: DataSet,
    images: ImageSet,
    batch_size: int,
    device: torch.device | str,
    function: Callable[[int, Tensor, Any], None],
) -> None:
    """Call a function with each batch: the number of its first sample, its inputs and what the network makes of them.

    Args:
        network: is moved to `device`.
        batch_size: most samples per forward pass.

    Raises:
        NotFiniteError: an output is NaN.
    """
    network = network.to(device)
    layout = torch.channels_last if _takes_channels_last(network, data, images, device) else torch.contiguous_format

    @torch.inference_mode()
    def run(part: Tensor) -> None:
        start, stop = part.tolist()
        inputs = data.normalize(images.images[start:stop].to(device)).contiguous(memory_format=layout)
        outputs = network(inputs)
        if any(bool(leaf.isnan().any()) for leaf in pytree.tree_leaves(outputs)):
            raise NotFiniteError("model: NaN logits in the evaluation; check model.checkpoint, data.mean and data.std")
        function(start, inputs, outputs)

    if isinstance(network, NetworkOfCodes):
        Workers().map(run, _ends(in_parts(torch.arange(len(images)), batch_size)))
        return
    if torch.device(device).type == "cpu":
        bytes_an_image = (
            network.graph.largest_bytes_an_image
            if isinstance(network, Network)
            else largest_bytes_an_image(network, data.normalize(images.images[:1]).contiguous(memory_format=layout))
        )
        batch_size = min(batch_size, images_that_stay_in_cache(bytes_an_image, _CACHED_BYTES, _FEWEST_IMAGES))
    for part in _ends(torch.arange(len(images)).split(batch_size)):
        run(part)


def _ends(parts: tuple[Tensor, ...]) -> list[Tensor]:
    """First sample of each part, and the one behind its last."""
    return [torch.stack([part[0], part[-1] + 1]) for part in parts]


@torch.inference_mode()
def _takes_channels_last(network: nn.Module, data: DataSet, images: ImageSet, device: torch.device | str) -> bool:
    """Whether a network computes images whose channels lie side by side, which is up to 1.5 times as fast.

    A person's own module may use `view` or `as_strided`, which ask for another layout: one image is tried.
    """
    if images.images.dim() != 4:
        return False
    if isinstance(network, Network | NetworkOfCodes):
        return True
    image = data.normalize(images.images[:1].to(device)).contiguous()
    expected = network(image)
    try:
        found = network(image.contiguous(memory_format=torch.channels_last))
    except RuntimeError:
        return False
    return relative_difference(found, expected) <= _ROUNDING
