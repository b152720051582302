"""Which of torch's operators a network calls."""

from collections import Counter

from torch.utils._python_dispatch import TorchDispatchMode


class Calls(TorchDispatchMode):
    """Counts torch's operators by name.

    Attributes:
        counts: how often each was called.
        packed_for: the shapes of the images that weights of convolutions were packed for.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.packed_for: list[list[int] | None] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.counts[str(func)] += 1
        if str(func) == "onednn.qconv_prepack.default":
            self.packed_for.append(args[8] if len(args) > 8 else None)
        return func(*args, **(kwargs or {}))
