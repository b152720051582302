"""What the run of a sweep carries: the answer, so that its page in MLflow is the first one to open."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from quant_sweep.tracking.names import LONGEST_TAG
from quant_sweep.tracking.recorder import Recorder

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MEMBERS = "quant_sweep.members"  # tag: run ids, a comma between them; further tags of this beginning go on


@dataclass(frozen=True)
class SweepPage:
    """What is shown of a sweep.

    Attributes:
        note: Markdown, shown on top of the page.
        metrics: what it came to.
        files: artifacts by name, below `report/`.
    """

    note: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    files: Mapping[str, bytes] = field(default_factory=dict)


def record_sweep(
    client: MlflowClient, run_id: str, page: SweepPage | None = None, tags: Mapping[str, str] | None = None
) -> None:
    """Write a page, or tags, into the run of a sweep; what is there already is replaced."""
    recorder = Recorder(client, run_id)
    for name, text in (tags or {}).items():
        recorder.tag(name, text)
    if page is None:
        recorder.flush()
        return
    recorder.metrics(page.metrics)
    recorder.note(page.note)
    for name, content in page.files.items():
        recorder.content(content, f"report/{name}")
    recorder.seal()


def members_tags(members: Sequence[str]) -> dict[str, str]:
    """The run ids as tags, as many in each as MLflow takes."""
    each = LONGEST_TAG // 33
    parts = [",".join(members[start : start + each]) for start in range(0, len(members), each)]
    return {_members_tag(index): part for index, part in enumerate(parts)}


def members_of(tags: Mapping[str, str]) -> list[str]:
    """What `members_tags` wrote, in its order."""
    names = itertools.takewhile(tags.__contains__, map(_members_tag, itertools.count()))
    return [run_id for name in names for run_id in tags[name].split(",")]


def _members_tag(index: int) -> str:
    return f"{MEMBERS}.{index}" if index else MEMBERS
