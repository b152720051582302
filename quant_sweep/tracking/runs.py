"""The runs of an experiment as a table, and what their tags say."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Literal, TypeAlias

from quant_sweep.tracking.failures import using
from quant_sweep.tracking.store import absolute_uri, open_existing
from quant_sweep.tracking.sweep_run import members_of

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

Kind: TypeAlias = Literal["point", "float", "train", "sweep", "sensitivity", "allocation"]
Status: TypeAlias = Literal["finished", "failed", "killed", "running"]

KEY, KIND, MARK, ERROR = (f"quant_sweep.{name}" for name in ("key", "kind", "complete", "error"))
PARENT = "mlflow.parentRunId"
_RESERVED_TAGS = ("mlflow.", "quant_sweep.")  # beginnings of those that are no remarks
_PAGE = 1000  # runs in one request


def read_runs(uri: str, experiment: str) -> pd.DataFrame:
    """Every run of an experiment that exists, one row each, oldest first.

    Columns: run_id, name, kind, key, parent, status (finished, failed, killed or running), start_time (ms since 1970),
    error, members (of a sweep: the run ids of its points, a comma between them), then `params.<name>` and `tags.<name>`
    (text) and `metrics.<name>` (float), missing where a run has none.
    A run is `finished` only with its completion mark; one without that MLflow calls FINISHED is still `running`, as is
    one whose process was killed and whose key nobody took up since.

    Raises:
        InputError: no such store or experiment; nothing is created.
    """
    return frame(*open_existing(absolute_uri(uri), experiment))


def frame(client: MlflowClient, experiment_id: str) -> pd.DataFrame:
    """Every run of an experiment; see `read_runs`."""
    import pandas as pd

    head = ["run_id", "name", "kind", "key", "parent", "status", "start_time", "error", "members"]
    rows = [_row(run) for run in search(client, experiment_id) if {KIND, KEY} <= run.data.tags.keys()]
    names = sorted({name for row in rows for name in row} - set(head))
    return pd.DataFrame(rows, columns=head + names).sort_values(["start_time", "run_id"], ignore_index=True)


def _row(run: Run) -> dict[str, object]:
    tags = run.data.tags
    return {
        "run_id": run.info.run_id,
        "name": run.info.run_name or "",
        "kind": tags[KIND],
        "key": tags[KEY],
        "parent": tags.get(PARENT, ""),
        "status": status_of(run),
        "start_time": run.info.start_time,
        "error": tags.get(ERROR, ""),
        "members": ",".join(members_of(tags)),
        **{f"params.{name}": text for name, text in run.data.params.items()},
        **{f"metrics.{name}": value for name, value in run.data.metrics.items()},
        **{f"tags.{name}": text for name, text in tags.items() if not name.startswith(_RESERVED_TAGS)},
    }


def status_of(run: Run) -> Status:
    """What a run came to; `finished` only with its completion mark."""
    if run.data.tags.get(MARK) == "true":
        return "finished"
    ended: dict[str, Status] = {"FAILED": "failed", "KILLED": "killed"}
    return ended.get(run.info.status, "running")


def search(client: MlflowClient, experiment_id: str, query: str = "") -> Iterator[Run]:
    """All runs that a query of MLflow finds, page by page."""
    token: str | None = None
    while True:
        with using(client):
            page = client.search_runs([experiment_id], query, max_results=_PAGE, page_token=token)
        yield from page
        token = page.token
        if not token:
            return
