"""The address under which MLflow's pages open the runs of an experiment as a table of results.

MLflow opens an experiment in its GenAI mode, and its table of runs without a metric or a param. Its pages keep a view
that somebody shares as a tag of the experiment, which an address names: columns, their order and widths, and sorting.
The tag below is such a view, in the form of MLflow 3.17. Sorted by a metric, the table shows the points of a sweep
beside it, and not below it after a click.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

LOCAL = "http://127.0.0.1:5000"  # where `quant-sweep-ui` serves a local store
_NAME = "quant_sweep"
# Of a server that shows pages and nothing else: its workers for background jobs take 2 GB.
SERVER_ENVIRONMENT = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
_TAG = f"mlflow.sharedViewState.{_NAME}"
_RUN_NAME = "tags.`mlflow.runName`"
_PARAMS = {"bits": 60, "observer": 95, "fusion": 115, "engine": 85, "recovery": 110, "model": 110}  # width in pixels
_WIDTHS = {_RUN_NAME: 250, "attributes.start_time": 130, "attributes.`Duration`": 80}
_WIDTH_OF_METRIC = 95


def save_view(
    client: MlflowClient, experiment_id: str, metric: str | None = None, higher_is_better: bool = True
) -> None:
    """Make the view of an experiment, or renew it.

    Args:
        metric: the first column, by which the runs are sorted, best first; None leaves a view that is there as it is,
            and makes one of the accuracy.
    """
    tags = client.get_experiment(experiment_id).tags
    if metric is None and _TAG in tags:
        return
    shown = f"metrics.`{metric or 'accuracy'}`"
    params = {f"params.`{name}`": width for name, width in _PARAMS.items()}
    name, *attributes = _WIDTHS
    view = {
        "selectedColumns": [shown, *params],
        "columnOrder": [name, shown, *params, *attributes],
        "columnWidths": {**_WIDTHS, shown: _WIDTH_OF_METRIC, **params},
        "orderByKey": shown,
        "orderByAsc": not higher_is_better,
    }
    text = json.dumps(view)
    if tags.get(_TAG) != text:
        client.set_experiment_tag(experiment_id, _TAG, text)


def address(server: str, experiment_id: str, local: str = LOCAL, run_id: str = "") -> str:
    """Where a browser finds the view, or the report of the sweep `run_id`.

    Args:
        server: http(s) address of an MLflow server, or another store.
        local: where `quant-sweep-ui` serves another store.
    """
    base = server.rstrip("/") if server.startswith("http") else local
    if run_id:
        return f"{base}/#/experiments/{experiment_id}/runs/{run_id}/artifacts/report/report.html"
    return f"{base}/#/experiments/{experiment_id}/runs?workflowType=machine_learning&viewStateShareKey={_NAME}"
