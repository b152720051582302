"""A runnable network and images -> predictions, accuracy, seconds.

On a CPU the threads take images of their own through a network of codes, normalisation included: what one thread
computes in between leaves the others to spin. In a float network they share each layer, which is as fast, and asks
nothing of a person's own module, which may not be made for several threads; it is given as many images as stay in the
cache.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from quant_sweep.data import DataSet, ImageSet
from quant_sweep.engines.lowering import NetworkOfCodes
from quant_sweep.errors import NotFiniteError
from quant_sweep.graph import Network
from quant_sweep.graph.interpret import relative_difference
from quant_sweep.runtime.full_precision import full_precision
from quant_sweep.runtime.in_cache import images_that_stay_in_cache, largest_bytes_an_image
from quant_sweep.runtime.progress import counted, tracked
from quant_sweep.runtime.threads import Workers, in_parts

_STEP = "evaluation"  # as its progress is called
_ROUNDING = 1e-3  # relative difference that another order of sums may leave
# Of a float network, whose layers all threads share: about the second-level cache of two cores.
_CACHED_BYTES, _FEWEST_IMAGES = 2**21, 8


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What a network said about a set of images.

    Attributes:
        predictions: class per image, int64 (n,).
        labels: true class per image, int64 (n,).
        seconds: wall time of the forward passes and the normalisation.
    """

    predictions: Tensor
    labels: Tensor
    seconds: float

    @property
    def correct(self) -> int:
        return int((self.predictions == self.labels).sum())

    @property
    def accuracy(self) -> float:
        """Percent."""
        return 100.0 * self.correct / len(self.labels)

    @property
    def images_per_second(self) -> float:
        return len(self.labels) / self.seconds

    def agreement(self, other: Evaluation) -> float:
        """Percent of images on which both say the same class.

        Raises:
            ValueError: the two saw different numbers of images.
        """
        if len(self.predictions) != len(other.predictions):
            raise ValueError(f"{len(self.predictions)} and {len(other.predictions)} predictions cannot be compared")
        return 100.0 * (self.predictions == other.predictions).to(torch.float64).mean().item()


@full_precision()
def evaluate(
    network: nn.Module, data: DataSet, images: ImageSet, batch_size: int, device: torch.device | str = "cpu"
) -> Evaluation:
    """Run a network over a set of images.

    Args:
        network: normalised images to logits; is moved to `device`.
        data: knows the normalisation.
        images: what to predict.
        batch_size: most images per forward pass.

    Raises:
        NotFiniteError: a logit is NaN, which no argmax may turn into a class.
    """
    network = network.to(device)
    layout = torch.channels_last if _takes_channels_last(network, data, images, device) else torch.contiguous_format

    @torch.inference_mode()
    def classes(pixels: Tensor) -> Tensor:
        logits = network(data.normalize(pixels.to(device)).contiguous(memory_format=layout))
        if bool(logits.isnan().any()):
            raise NotFiniteError("model: NaN logits in the evaluation; check model.checkpoint, data.mean and data.std")
        predicted: Tensor = logits.argmax(dim=1)
        return predicted.cpu()

    began = time.perf_counter()
    if isinstance(network, NetworkOfCodes):
        parts = in_parts(images.images, batch_size)
        predictions = Workers().map(counted(classes, _STEP, len(parts)), parts)
    else:
        if torch.device(device).type == "cpu":
            bytes_an_image = (
                network.graph.largest_bytes_an_image
                if isinstance(network, Network)
                else largest_bytes_an_image(network, data.normalize(images.images[:1]).contiguous(memory_format=layout))
            )
            batch_size = min(batch_size, images_that_stay_in_cache(bytes_an_image, _CACHED_BYTES, _FEWEST_IMAGES))
        parts = images.images.split(batch_size)
        predictions = [classes(part) for part in tracked(parts, _STEP, len(parts))]
    return Evaluation(torch.cat(predictions), images.labels, time.perf_counter() - began)


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
