"""A process of its own for the tracking tests: `worker.py MODE FOLDER KEYS`. Prints what it did."""

import os
import signal
import sys
import time
from pathlib import Path

from quant_sweep.tracking import Recorder, Tracker


def main(mode: str, folder: Path, keys: list[str]) -> None:
    tracker = Tracker.open(f"sqlite:///{folder}/mlflow.db", "study", folder / "artifacts", folder / "locks")
    parent = tracker.sweep("sweep")
    for key in keys:
        with tracker.lock(key):
            if tracker.find_finished(key) is not None:
                continue
            with tracker.record(kind="point", key=key, name=key, params={"bits": 4}, parent=parent) as recorder:
                recorder.metrics({"accuracy": 50.0})
                if mode == "die":
                    os.kill(os.getpid(), signal.SIGKILL)
                if mode == "hang":
                    hang(recorder)
        print(key, flush=True)


def hang(recorder: Recorder) -> None:
    print(recorder.run_id, flush=True)
    time.sleep(600)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), sys.argv[3:])
