"""The names of a checkpoint's tensors and those of the model: what wraps them, and what lies beside them.

A training script saves a network inside its own module (`model.`, `backbone.`, `module._orig_mod.`, ...). The beginning
that makes every name fit is taken away; a name that is missing, or one too many below it, is a misfit all the same.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from torch import Tensor

_UNNEEDED = ".num_batches_tracked"  # BatchNorm counts; no result depends on it
_AVERAGED = ("ema", "shadow", "averag", "swa", "teacher")


@dataclass(frozen=True, eq=False)
class Fitted:
    """The tensors of a checkpoint under the model's names.

    Attributes:
        state: by the model's names, as far as they fit.
        notes: what was done to get them, for the log.
    """

    state: Mapping[str, Tensor]
    notes: tuple[str, ...]


def fitted(own: Collection[str], state: Mapping[str, Tensor]) -> Fitted:
    """Take the beginning away that all names share, and what is no weight; unchanged where no beginning fits.

    Args:
        own: names of the model's parameters and buffers.
        state: the checkpoint.
    """
    needed = [name for name in own if not name.endswith(_UNNEEDED)]
    if not needed:
        return Fitted(state, ())
    candidates = sorted({name.removesuffix(needed[0]) for name in state if _ends(name, needed[0])}, key=_preference)
    fitting = [prefix for prefix in candidates if all(prefix + name in state for name in needed)]
    if not fitting:
        return Fitted(state, ())
    chosen, *others = fitting
    below = {name.removeprefix(chosen): value for name, value in state.items() if name.startswith(chosen)}
    loose = [name for name in below if name not in own and "." not in name and below[name].numel() <= 1]
    if not chosen and others:  # a second set lies beside the plain names
        loose += [name for name in below if name.startswith(tuple(others))]
    kept = {name: value for name, value in below.items() if name not in loose}
    beside = [name for name in state if not name.startswith(chosen)] + loose
    notes = [f"the beginning {chosen!r} of its names is left out"] if chosen else []
    notes += [f"{len(beside)} other tensors in it are ignored ({', '.join(beside[:3])})"] if beside else []
    notes += [f"it holds more than one set of weights: {chosen!r} is taken, not {others}"] if others else []
    return Fitted(kept, tuple(notes))


def _ends(name: str, own: str) -> bool:
    return name == own or name.endswith(f".{own}")


def _preference(prefix: str) -> tuple[bool, int, str]:
    """Plain weights before averaged ones, then what is wrapped least."""
    return any(word in prefix.lower() for word in _AVERAGED), len(prefix), prefix
