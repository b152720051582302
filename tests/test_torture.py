"""A small seeded share of `python -m torture`: kills of real sweeps, signals, and damages of every kind of file."""

import logging
import os
import signal
import time
from pathlib import Path

import pytest

from quant_sweep.cli import entry, sweep
from quant_sweep.tracking import read_runs
from torture.damage import count_damages, kinds
from torture.forked import Child, command, start
from torture.sweeps import ARGUMENTS, Sweeps


@pytest.fixture(scope="module")
def sweeps(tmp_path_factory: pytest.TempPathFactory) -> Sweeps:
    return Sweeps(tmp_path_factory.mktemp("sweeps"))


@pytest.mark.slow
@pytest.mark.usefixtures("schema_made_each_time")  # and killed
def test_kills_lose_nothing(sweeps: Sweeps) -> None:
    counts = sweeps.count_kills(number=2, processes=2, seed=int(os.environ.get("TORTURE_SEED", "7")))
    sent = {"SIGKILL", "SIGINT", "SIGTERM", "SIGHUP", "stores"}
    assert {name: count for name, count in counts.items() if count and name not in sent} == {}


def hanging(place: Path) -> Child:
    """A sweep that has finished one point and hangs in the next."""

    def work() -> None:
        def hang(*_: object) -> None:
            (place / "hangs").touch()
            time.sleep(600)

        sweep.run_point.__globals__["quantize_model"] = hang
        command(entry.sweep, "quant-sweep", [*ARGUMENTS, "force=true"])()

    return start(work, place, place / "log")


def wait_until_it_hangs(place: Path, child: Child) -> None:
    end = time.monotonic() + 100
    while not (place / "hangs").exists():
        assert time.monotonic() < end, child.log.read_text()
        time.sleep(0.05)
    (place / "hangs").unlink()


@pytest.mark.slow
@pytest.mark.usefixtures("sweeps")  # which have imported all
def test_a_signal_is_one_line_the_report_and_its_exit_code(tmp_path: Path) -> None:
    """After a kill that could not be handled: the next sweep closes what that one left open."""
    codes = {signal.SIGKILL: -9, signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
    for number, code in codes.items():
        child = hanging(tmp_path)
        wait_until_it_hangs(tmp_path, child)
        child.log.write_text("")
        child.send(number)
        if number == signal.SIGTERM:
            time.sleep(0.3)  # of two that wait, the one with the lower number would be handled first
            child.send(signal.SIGHUP)  # a second signal does not disturb the end
        assert child.wait() == code, child.log.read_text()
        if number != signal.SIGKILL:
            log = child.log.read_text()
            name = "Ctrl-C" if number == signal.SIGINT else number.name
            line = f"quant-sweep: stopped by {name}; what is finished is kept, the same command goes on from there"
            assert log.count(line) == 1
            assert log.count("quant-sweep: stopped by") == 1
            assert "Report: " in log
            assert "Traceback" not in log
    runs = read_runs(f"sqlite:///{tmp_path}/mlruns/mlflow.db", "quant_sweep")
    assert runs[runs["kind"] == "point"]["status"].tolist() == ["killed"] * 4
    assert runs[runs["kind"] == "sweep"]["status"].tolist() == ["killed"] * 4
    assert "Stopped: stopped by SIGTERM" in set(runs["error"])


def test_damages_are_noticed(tmp_path: Path) -> None:
    logging.getLogger("quant_sweep").setLevel(logging.ERROR)
    try:
        for kind in kinds(tmp_path):
            counts = count_damages(kind, number=24, seed=3)
            assert counts.total() == 24
            assert counts["silent"] == counts["traceback"] == 0, kind.name
            assert counts["harmless"] == 0 or kind.file.suffix == ".pt", kind.name
    finally:
        logging.getLogger("quant_sweep").setLevel(logging.NOTSET)
