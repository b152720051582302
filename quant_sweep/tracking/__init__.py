"""What a sweep leaves behind, in MLflow: the only package that talks to it.

    tracker = Tracker.open("sqlite:///mlruns/mlflow.db", "digits", Path("mlruns/artifacts"), Path("mlruns/locks"))
    with tracker.lock(key):
        if (done := tracker.find_finished(key)) is None:
            with tracker.record(kind="point", key=key, name="mse 4 bit", params={"bits": 4}) as recorder:
                recorder.metrics({"accuracy": 91.2})

A run counts as finished when its completion mark is there, and the mark is the last thing written. MLflow's own status
is not proof. Only `MlflowClient` is used: the fluent API keeps one active run per process and closes it at exit,
after a crash too.
"""

from quant_sweep.tracking.failures import one_line
from quant_sweep.tracking.provenance import command
from quant_sweep.tracking.recorder import Recorder
from quant_sweep.tracking.runs import Kind, read_runs
from quant_sweep.tracking.store import absolute_uri
from quant_sweep.tracking.sweep_run import SweepPage
from quant_sweep.tracking.tracker import FinishedRun, Tracker, addresses, sweep_alive
from quant_sweep.tracking.view import SERVER_ENVIRONMENT

__all__ = [
    "SERVER_ENVIRONMENT",
    "FinishedRun",
    "Kind",
    "Recorder",
    "SweepPage",
    "Tracker",
    "absolute_uri",
    "addresses",
    "command",
    "one_line",
    "read_runs",
    "sweep_alive",
]
