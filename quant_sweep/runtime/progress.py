"""How far a long step is, told to whoever listens: the command that shows it, or nobody.

The steps know neither terminals nor logs. Telling costs a microsecond.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from contextvars import ContextVar
from threading import Lock
from typing import TypeVar

Listener = Callable[[str, int, int], None]  # what, done, of how many; the last call has all of them done

_Item = TypeVar("_Item")
_Argument = TypeVar("_Argument")
_Result = TypeVar("_Result")


def _nobody(_what: str, _done: int, _total: int) -> None: ...


_listener: ContextVar[Listener] = ContextVar("_listener", default=_nobody)


@contextlib.contextmanager
def heard_by(listener: Listener) -> Iterator[None]:
    """Meanwhile, steps of this thread tell `listener`; it may be called from threads that they start."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


def tracked(items: Iterable[_Item], what: str, total: int) -> Iterator[_Item]:
    """The same items; each counts when the next is asked for."""
    tell = _listener.get()
    tell(what, 0, total)
    done = 0
    try:
        for done, item in enumerate(items):
            tell(what, done, total)
            yield item
    finally:
        tell(what, total, total)


def counted(function: Callable[[_Argument], _Result], what: str, total: int) -> Callable[[_Argument], _Result]:
    """The same function; each of its `total` calls counts when it has ended, in whatever thread."""
    tell, turn = _listener.get(), Lock()
    done = 0
    tell(what, 0, total)

    def counting(argument: _Argument) -> _Result:
        nonlocal done
        result = function(argument)
        with turn:
            done += 1
            tell(what, done, total)
        return result

    return counting
