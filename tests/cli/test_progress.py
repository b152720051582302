"""What a person sees while a command works."""

import io
import logging
from pathlib import Path

import pytest
from rich.console import Console

from quant_sweep.cli.journal import Entry, Journal, differing
from quant_sweep.cli.progress import Display, counts, jobs_shown, only_warnings, steps_shown, time_left
from quant_sweep.runtime.progress import counted, tracked

DONE = Entry(("data=x", "bits=4"), "done", "4b mse: accuracy 82.00", 10.0, "run1")
SKIPPED = Entry(("data=x", "bits=8"), "skipped", "8b mse: accuracy 91.00", 0.1, "run2")
FAILED = Entry(("data=x", "bits=1"), "failed", "bits=1: too few", 0.1)


def test_a_journal_keeps_what_is_whole(tmp_path: Path) -> None:
    journal = Journal.of(tmp_path, "sweep")
    assert journal.read() == []
    for entry in (DONE, SKIPPED, FAILED):
        journal.add(entry)
    journal.path.write_bytes(journal.path.read_bytes() + b'{"job": [')
    assert journal.read() == [DONE, SKIPPED, FAILED]
    journal.remove()
    assert journal.read() == []
    Journal.of(tmp_path / "gone", "sweep").add(DONE)


def test_a_job_is_named_by_what_differs() -> None:
    assert differing([DONE, SKIPPED, FAILED], FAILED.job) == "bits=1"
    assert differing([FAILED], FAILED.job) == "data=x bits=1"


def test_skipped_points_cost_nothing() -> None:
    entries = [DONE, SKIPPED, FAILED]
    assert counts(entries, 5) == "3/5 points: 1 done, 1 skipped, 1 failed"
    assert time_left(entries, 5, 60.0) == "; 2 min left"
    assert time_left(entries, 5, 60.0, since=50.0) == "; 70 s left"
    assert time_left([SKIPPED], 5, 60.0) == time_left(entries, 3, 60.0) == ""


@pytest.mark.parametrize("terminal", [False, True])
def test_a_multirun(terminal: bool, tmp_path: Path) -> None:
    journal, text = Journal.of(tmp_path, "sweep"), io.StringIO()
    console = Console(file=text, force_terminal=terminal, width=60, _environ={})
    with jobs_shown(Display(console), journal, 3):
        for entry in (DONE, SKIPPED, FAILED):
            journal.add(entry)
    shown = text.getvalue()
    if terminal:
        assert "3/3 points: 1 done, 1 skipped, 1 failed" in shown
        assert "failed: bits=1: bits=1: too few" in shown
        assert "accuracy 82.00" not in shown, "it is in the log of the job"
    else:
        first, second, third = shown.splitlines()
        assert first.startswith("[1/3] 4b mse: accuracy 82.00")
        assert second.startswith("[2/3] 8b mse: accuracy 91.00")
        assert third == "[3/3] failed: bits=1: bits=1: too few"


@pytest.mark.parametrize(("terminal", "seconds"), [(False, 10.0), (True, 2.0)])
def test_only_long_steps_are_shown(terminal: bool, seconds: float) -> None:
    text, now = io.StringIO(), [0.0]
    display = Display(Console(file=text, force_terminal=terminal, width=60, _environ={}), lambda: now[0])
    with steps_shown(display):
        for now[0] in tracked([0.0, 0.4, 0.8], "calibration", 3):
            pass
        assert "calibration" not in text.getvalue()
        slow = counted(lambda step: now.__setitem__(0, 100.0 + step), "evaluation", 4)
        for done in (1, 2, 3, 4):
            slow(done * seconds)
    assert "evaluation 75 %, " in text.getvalue()
    assert "evaluation 100 %" not in text.getvalue()


def test_the_terminal_is_left_to_warnings(tmp_path: Path) -> None:
    logger, text = logging.Logger("job"), io.StringIO()
    logger.addHandler(logging.StreamHandler(text))
    logger.addHandler(logging.FileHandler(tmp_path / "job.log"))
    only_warnings(logger.handlers)
    for level in (logging.INFO, logging.WARNING, logging.ERROR):
        logger.log(level, "level %d", level)
    assert text.getvalue() == "level 30\n"
    assert (tmp_path / "job.log").read_text().splitlines() == ["level 20", "level 30", "level 40"]
