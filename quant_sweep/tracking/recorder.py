"""Write one run: params at once, metrics in batches, tables and texts as artifacts.

Nothing is stored otherwise than it was given: a number that is not finite is refused (MLflow would store infinity as
1.8e308), a param too long for MLflow goes whole into an artifact (MLflow would cut it), and so do names that MLflow
cannot store.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from quant_sweep.tracking.failures import keeping, using
from quant_sweep.tracking.names import stored_names

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.tracking import MlflowClient

LONG_PARAMS = "long_params.json"
NAMES = "names.json"  # name in MLflow -> full name, of those that differ
DIGESTS = "quant_sweep.sha256"  # tag: artifact path -> SHA-256, as JSON
_LONGEST_PARAM = 6000  # characters; MLflow cuts what is longer
_BATCH = 1000  # metrics in one request
_PARAM_BATCH = 100


class Recorder:
    """One open run. Made by `Tracker.record`, which also closes it."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.run_id = run_id
        self._client = client
        self._digests: dict[str, str] = {}
        self._names: dict[str, str] = {}  # of metrics
        self._param_names: dict[str, str] = {}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log all of `values` in one request per 1,000.

        Raises:
            ValueError: a value is not finite; nothing is logged then.
        """
        from mlflow.entities import Metric

        names = self._names = stored_names(values, self._names)
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            raise ValueError(f"metrics must be finite, but {', '.join(f'{k} is {v}' for k, v in bad.items())}")
        now = int(time.time() * 1000)
        entries = [Metric(names[name], float(value), now, step or 0) for name, value in values.items()]
        with using(self._client):
            for start in range(0, len(entries), _BATCH):
                self._client.log_batch(self.run_id, metrics=entries[start : start + _BATCH])

    def params(self, values: Mapping[str, object]) -> None:
        """Log all of `values` as text; one over MLflow's limit becomes a digest and is kept whole in an artifact."""
        from mlflow.entities import Param

        names = self._param_names = stored_names(values, self._param_names)
        texts = {names[name]: str(value) for name, value in values.items()}
        long = {name: text for name, text in texts.items() if len(text) > _LONGEST_PARAM}
        entries = [Param(name, _digest(text) if name in long else text) for name, text in texts.items()]
        with using(self._client):
            for start in range(0, len(entries), _PARAM_BATCH):
                self._client.log_batch(self.run_id, params=entries[start : start + _PARAM_BATCH])
        if long:
            self.text(json.dumps(long, indent=2, sort_keys=True), LONG_PARAMS)

    def tag(self, name: str, value: str) -> None:
        """Remember a word about the run."""
        with using(self._client):
            self._client.set_tag(self.run_id, name, value)

    def table(self, frame: pd.DataFrame, path: str) -> None:
        """Keep `frame` as a CSV artifact, without its index; floats keep every digit."""
        import pyarrow as pa
        from pyarrow import csv

        written = pa.BufferOutputStream()  # Arrow writes the grids of a ResNet-50 eight times as fast as pandas
        csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), written)
        self._bytes(written.getvalue().to_pybytes(), path)

    def text(self, text: str, path: str) -> None:
        """Keep `text` as an artifact at `path`, `/` between folders."""
        self._bytes(text.encode(), path)

    def _bytes(self, content: bytes, path: str) -> None:
        with keeping(path), TemporaryDirectory() as folder:
            file = Path(folder) / PurePosixPath(path).name
            file.write_bytes(content)
            self.file(file, path)

    def file(self, source: Path, path: str) -> None:
        """Keep a copy of the file `source` as an artifact at `path`, whose last part must be the file's own name."""
        target = PurePosixPath(path)
        if target.name != source.name:
            raise ValueError(f"artifact {path!r} must end in the file's own name, {source.name!r}")
        parent = None if target.parent == PurePosixPath(".") else str(target.parent)
        with using(self._client), keeping(path):
            self._digests[path] = file_digest(source)
            self._client.log_artifact(self.run_id, str(source), parent)

    def seal(self) -> None:
        """Keep the full names, and the digests of all artifacts, by which `Tracker.load_artifact` checks them."""
        from mlflow.entities import RunTag

        pairs = (*self._names.items(), *self._param_names.items())
        changed = {stored: name for name, stored in pairs if stored != name}
        if changed:
            self.text(json.dumps(changed, indent=2, sort_keys=True), NAMES)
        with using(self._client):
            self._client.log_batch(self.run_id, tags=[RunTag(DIGESTS, json.dumps(self._digests, sort_keys=True))])


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(text: str) -> str:
    """What stands in the param for a text of 6,001 characters or more: equal texts keep equal params."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()} ({len(text):,} characters, whole in {LONG_PARAMS})"
