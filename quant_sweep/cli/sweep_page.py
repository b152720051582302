"""The answer of a multirun, as its own run in MLflow carries it."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from quant_sweep.cli.journal import Entry, differing
from quant_sweep.report import Report, build_report
from quant_sweep.report.document import Links
from quant_sweep.report.failed_jobs import FAILED_JOBS
from quant_sweep.report.html import html
from quant_sweep.report.html_page import MORE
from quant_sweep.report.markdown import markdown
from quant_sweep.tracking import SweepPage
from quant_sweep.tracking.names import LONGEST_TAG

_LONGEST_ERROR = 300


def members_of(sweep: str, runs: pd.DataFrame, entries: Sequence[Entry]) -> list[str]:
    """Run ids of the points of a multirun: those that jobs told of, and those below it, failed ones too.

    Args:
        sweep: its name.
        runs: all of the experiment.
        entries: what became of its jobs.
    """
    parents = runs.loc[(runs["kind"] == "sweep") & (runs["key"] == sweep), "run_id"]
    children = runs.loc[(runs["kind"] == "point") & runs["parent"].isin(parents), "run_id"]
    return list(dict.fromkeys([*(entry.run_id for entry in entries if entry.run_id), *children]))


def told(entries: Sequence[Entry], command: str) -> dict[str, str]:
    """Tags of a multirun: the command that started it, and the jobs that failed."""
    failed = [(differing(entries, e.job), e.text[:_LONGEST_ERROR]) for e in entries if e.status == "failed"]
    return {"command": command[:LONGEST_TAG], **({FAILED_JOBS: _as_tag(failed)} if failed else {})}


def sweep_page(members: Sequence[str], failed: int, runs: pd.DataFrame, report: Report) -> SweepPage:
    """The answer of a multirun.

    Args:
        members: run ids of its points.
        failed: how many of its jobs failed.
        runs: all of the experiment.
        report: of these; where the multirun has a part of them only, the page has a report of its own.
    """
    others = runs[(runs["kind"] == "point") & ~runs["run_id"].isin(members)]
    if others.empty:
        return _page(failed, report)
    with tempfile.TemporaryDirectory() as folder:
        return _page(failed, build_report(runs.drop(others.index), Path(folder)))


def _page(failed: int, report: Report) -> SweepPage:
    return SweepPage(
        note=markdown(report.brief, pictures=False),
        metrics={**report.metrics, "failed": failed},
        files=_files(report),
    )


def _files(report: Report) -> dict[str, bytes]:
    """What the report wrote; its page leads to no other one, which is not there."""
    files = {file.name: file.read_bytes() for file in report.files}
    blocks = [block for block in report.page.blocks if not isinstance(block, Links) and block != MORE]
    return {**files, "report.html": html(replace(report.page, blocks=tuple(blocks))).encode()}


def _as_tag(failed: Sequence[tuple[str, str]]) -> str:
    """As many as a tag takes, and how many there are beside them."""
    shown = list(failed)
    while len(text := json.dumps([*shown, *_beside(failed, shown)])) > LONGEST_TAG:
        shown = shown[: len(shown) * 4 // 5]
    return text


def _beside(failed: Sequence[tuple[str, str]], shown: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    left = len(failed) - len(shown)
    return [(f"{left} more jobs", "see the log of each")] if left else []
