"""A signal is an exception once, and what has been arranged otherwise (nohup) stays as it is."""

import contextlib
import pickle
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from quant_sweep.cli import entry
from quant_sweep.cli.signals import Stopped, check_stopped, ended_by_signals, stopped_by_signals
from torture.forked import start

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@pytest.fixture(autouse=True)
def usual_handlers() -> None:
    """Those that a process begins with."""
    for number in SIGNALS:
        assert signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)


@contextlib.contextmanager
def all_signals_at_the_end() -> Iterator[None]:
    """What is done on the way out is not disturbed by more of them."""
    try:
        yield
    finally:
        for number in SIGNALS:
            signal.raise_signal(number)


@pytest.mark.parametrize("number", SIGNALS)
def test_it_is_raised_once(number: int) -> None:
    with pytest.raises(Stopped) as caught, stopped_by_signals(), all_signals_at_the_end():
        signal.raise_signal(number)
    assert caught.value.exit_code == 128 + number
    assert not isinstance(caught.value, Exception)


def test_one_that_was_lost_is_raised_between_jobs() -> None:
    with stopped_by_signals():
        check_stopped()
        with contextlib.suppress(Stopped):
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped, match="stopped by SIGTERM"):
            check_stopped()
    check_stopped()


def test_one_that_arrives_in_a_destructor_is_raised_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """And Python prints no traceback of it."""

    class Closing:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    class Faulty:
        def __del__(self) -> None:
            raise ValueError

    printed: list[type[BaseException]] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda lost: printed.append(lost.exc_type))
    with pytest.raises(Stopped, match="SIGTERM"), stopped_by_signals():  # noqa: PT012
        Closing()
        Faulty()
        time.sleep(10)
        pytest.fail("the signal was lost")
    with stopped_by_signals():  # found before it is sent again: raised once
        Closing()
        with pytest.raises(Stopped):
            check_stopped()
        time.sleep(0.2)
    assert printed == [ValueError]


def test_an_error_that_a_signal_has_set_off_is_the_signal() -> None:
    def interrupted() -> None:
        try:
            signal.raise_signal(signal.SIGTERM)
        finally:
            raise AttributeError("its cleaning up failed")

    with pytest.raises(Stopped) as caught, stopped_by_signals():
        interrupted()
    assert isinstance(caught.value.__cause__, AttributeError)
    with pytest.raises(AttributeError), stopped_by_signals():
        raise AttributeError("no signal")
    with pytest.raises(SystemExit), stopped_by_signals():
        raise SystemExit(2)


def test_what_is_ignored_or_handled_by_others_stays() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopped_by_signals():
            signal.raise_signal(signal.SIGHUP)
            with stopped_by_signals():  # a job inside a command: the command's handler serves both
                pass
            with pytest.raises(Stopped):
                signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGHUP, before)


def test_it_goes_from_a_worker_to_its_parent() -> None:
    stopped = pickle.loads(pickle.dumps(Stopped(signal.SIGHUP)))
    assert (stopped.number, str(stopped)) == (1, "stopped by SIGHUP")


def test_before_anything_is_imported_it_ends_the_process(tmp_path: Path) -> None:
    def ended() -> None:
        with ended_by_signals("quant-sweep"):
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("still here")

    child = start(ended, tmp_path, tmp_path / "log")
    assert child.wait() == 143
    assert (tmp_path / "log").read_text().startswith("quant-sweep: stopped by SIGTERM; ")
    assert (tmp_path / "log").read_text().count("\n") == 1


@pytest.mark.parametrize("name", ["sweep", "train", "report", "explain", "sensitivity", "allocate"])
def test_entries_call_the_commands(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[str] = []
    getattr(entry, name)  # imports nothing heavy
    __import__(f"quant_sweep.cli.{name}")
    monkeypatch.setattr(sys.modules[f"quant_sweep.cli.{name}"], "main", lambda: called.append(name))
    getattr(entry, name)()
    assert called == [name]
