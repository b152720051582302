"""Images per second of every way to run one network, each with the batch size that suits it best."""

from __future__ import annotations

import torch

from benchmarks import contestants, subjects
from benchmarks.alternate import alternate, ratios, spread, timed
from benchmarks.contestants import Runs
from benchmarks.result import save

_IMAGES = {"resnet50": 128}
_IMAGES_OTHERWISE = 1024
_BATCH_SIZES = (128, 64, 32, 16, 8)
_COMPARISONS = [  # slower, faster
    ("float32 eager", "int8, 4 bits"),
    ("float32 eager", "int8, 8 bits"),
    ("fastest float32", "int8, 4 bits"),
    ("convolution + round/clamp, 4 bits", "int8, 4 bits"),
    ("PyTorch FX int8", "int8, 8 bits"),
    ("onnxruntime int8 QDQ", "int8, 8 bits"),
    ("Brevitas fake-quant, 8 bits", "int8, 8 bits"),
    ("simulate, 4 bits", "int8, 4 bits"),
    ("float32 eager, batch 128", "int8, 4 bits"),
]


@torch.inference_mode()
def measure(name: str, rounds: int) -> None:
    """Write results/<CPU>/evaluation_<name>.json."""
    count = _IMAGES.get(name, _IMAGES_OTHERWISE)
    batch = subjects.images(count)
    turns, sizes, missing = {}, {}, {}
    for way, make in contestants.everybody(subjects.network(name)).items():
        try:
            network = make()
            sizes[way] = _best_batch_size(network, batch)
        except Exception as error:  # another's library may fail in any way; the table says how
            missing[way] = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            continue
        turns[way] = _Turn(network, batch, sizes[way])
        print(f"{way}: batches of {sizes[way]}")
    turns["float32 eager, batch 128"] = _Turn(turns["float32 eager"].network, batch, 128)
    sizes["float32 eager, batch 128"] = 128
    seconds = alternate(turns, rounds)
    floats = [way for way in seconds if way.startswith("float32")]
    seconds["fastest float32"] = [min(at_once) for at_once in zip(*(seconds[way] for way in floats), strict=True)]
    save(
        f"evaluation_{name}",
        {
            "network": name,
            "images": count,
            "rounds": rounds,
            "batch_sizes": sizes,
            "images_per_second": {way: spread([count / s for s in seconds[way]]) for way in turns},
            "ratios": {f"{a} / {b}": ratios(seconds, a, b) for a, b in _COMPARISONS if a in seconds and b in seconds},
            "missing": missing,
        },
    )


class _Turn:
    """One pass over all images."""

    def __init__(self, network: Runs, images: torch.Tensor, batch_size: int) -> None:
        self.network = network
        self.batches = images.split(batch_size)

    def __call__(self) -> None:
        for batch in self.batches:
            self.network(batch)


def _best_batch_size(network: Runs, images: torch.Tensor) -> int:
    """That of the fastest pass, each tried after one batch of its size."""
    seconds = {}
    for size in _BATCH_SIZES:
        turn = _Turn(network, images, size)
        network(images[:size])
        seconds[size] = timed(turn)
    return min(seconds, key=seconds.__getitem__)
