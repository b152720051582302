"""Runs as `Tracker.runs()` gives them, made by hand."""

from itertools import count

import pandas as pd

_numbers = count(1)


def run(
    status: str = "finished", kind: str = "point", accuracy: float | None = None, **settings: object
) -> dict[str, object]:
    """One row. `settings` are params (`__` stands for a dot), except `key`, `error`, `images`, `start_time`; 50 samples
    are right in few bits alone."""
    number = next(_numbers)
    params = {"model": "resnet20", "data": "digits", "engine": "simulate", "fusion": "bn", "observer": "mse", "bits": 8}
    own = {"key": f"key{number:04}", "error": "", "images": 10000, "start_time": number, "float_accuracy": 91.73}
    own |= {name: value for name, value in settings.items() if name in own}
    params |= {name.replace("__", "."): value for name, value in settings.items() if name not in own}
    row = {"run_id": f"run{number:04}", "name": "", "kind": kind, "parent": "", "status": status}
    row |= {name: own[name] for name in ("key", "error", "start_time")}
    row |= {f"params.{name}": str(value) for name, value in params.items()}
    if accuracy is not None:
        row |= {"metrics.accuracy": accuracy, "metrics.test_images": float(str(own["images"]))}
        row |= {"metrics.float_accuracy": own["float_accuracy"], "metrics.scale/conv1": 0.5}
        difference = (float(str(own["float_accuracy"])) - accuracy) * float(str(own["images"])) / 100
        row |= {"metrics.lost": 50 + max(difference, 0.0), "metrics.gained": 50 + max(-difference, 0.0)}
    return row


def measured(
    metric: str, unit: str, direction: str, kind: str, metrics: dict[str, float], **settings: object
) -> dict[str, object]:
    """One finished row of another metric, with the metrics given and 1,000 samples."""
    row = run(metric=metric, **settings)
    tags = {"metric_name": metric, "metric_unit": unit, "metric_direction": direction, "metric_kind": kind}
    row |= {f"tags.{name}": value for name, value in tags.items()}
    return row | {f"metrics.{name}": value for name, value in {"test_images": 1000.0, **metrics}.items()}


def frame(*rows: dict[str, object]) -> pd.DataFrame:
    head = ["run_id", "name", "kind", "key", "parent", "status", "start_time", "error"]
    return pd.DataFrame(list(rows), columns=head if not rows else None)
