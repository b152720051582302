"""Write one run: params at once, what was measured in one request at the end, tables and texts as artifacts.

A request costs some 40 ms of waiting for the disk, whatever is in it, so metrics without a step and tags wait for the
end of the run; those of a run that fails are written too. Nothing is stored otherwise than it was given: a number that
is not finite is refused (MLflow would store infinity as 1.8e308), a param too long for MLflow goes whole into an
artifact (MLflow would cut it), and so do names that MLflow cannot store.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from quant_sweep.tracking.failures import keeping, using
from quant_sweep.tracking.names import stored_names

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import DatasetInput, Metric
    from mlflow.tracking import MlflowClient

LONG_PARAMS = "long_params.json"
_NOTE = "mlflow.note.content"  # tag
_LONGEST_NOTE = 7500  # characters; MLflow takes 8000 in a tag
_CONTEXT = "mlflow.data.context"  # tag of a data set: what the run did with it
_LONGEST_DIGEST = 36  # characters, as MLflow's database has them
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
        self._metrics: dict[str, Metric] = {}  # by their stored names
        self._tags: dict[str, str] = {}
        self._inputs: list[DatasetInput] = []
        self._names: dict[str, str] = {}  # of metrics
        self._param_names: dict[str, str] = {}

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Log all of `values`: those of a step now, in one request per 1,000, others at the end of the run.

        Raises:
            ValueError: a value is not finite; nothing of `values` is logged then.
        """
        from mlflow.entities import Metric

        names = self._names = stored_names(values, self._names)
        bad = {name: value for name, value in values.items() if not math.isfinite(value)}
        if bad:
            raise ValueError(f"metrics must be finite, but {', '.join(f'{k} is {v}' for k, v in bad.items())}")
        now = int(time.time() * 1000)
        entries = [Metric(names[name], float(value), now, step or 0) for name, value in values.items()]
        if step is None:
            self._metrics |= {entry.key: entry for entry in entries}
        else:
            self._log(entries, {})

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
        """Remember a word about the run; it is written at its end."""
        self._tags[name] = value

    def note(self, text: str) -> None:
        """Show `text`, Markdown, on top of the run's page; what is too long for MLflow is cut at the end of a line."""
        if len(text) > _LONGEST_NOTE:
            text = text[:_LONGEST_NOTE].rpartition("\n")[0] + "\n\n… the rest is under Artifacts."
        self.tag(_NOTE, text)

    def dataset(self, context: str, name: str, digest: str, source: str, images: int) -> None:
        """Note a data set that the run used; it is written at its end.

        Args:
            context: what for, `calibration` or `evaluation`.
            digest: names the content; MLflow keeps the first 36 characters.
            source: where it lies, for people.
            images: how many.
        """
        from mlflow.entities import Dataset, DatasetInput, InputTag

        profile = json.dumps({"images": images})
        entry = Dataset(name, digest[:_LONGEST_DIGEST], "local", json.dumps({"uri": source}), profile=profile)
        self._inputs.append(DatasetInput(entry, [InputTag(_CONTEXT, context)]))

    def table(self, frame: pd.DataFrame, path: str) -> None:
        """Keep `frame` as a CSV artifact, without its index; floats keep every digit."""
        import pyarrow as pa
        from pyarrow import csv

        written = pa.BufferOutputStream()  # Arrow writes the grids of a ResNet-50 eight times as fast as pandas
        csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), written)
        self.content(written.getvalue().to_pybytes(), path)

    def text(self, text: str, path: str) -> None:
        """Keep `text` as an artifact at `path`, `/` between folders."""
        self.content(text.encode(), path)

    def content(self, content: bytes, path: str) -> None:
        """Keep bytes as an artifact at `path`."""
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
        """Write what waited, the full names, and the digests by which `Tracker.load_artifact` checks the artifacts."""
        pairs = (*self._names.items(), *self._param_names.items())
        changed = {stored: name for name, stored in pairs if stored != name}
        if changed:
            self.text(json.dumps(changed, indent=2, sort_keys=True), NAMES)
        if self._inputs:
            with using(self._client):
                self._client.log_inputs(self.run_id, self._inputs)
        self._tags[DIGESTS] = json.dumps(self._digests, sort_keys=True)
        self.flush()

    def flush(self) -> None:
        """Write the metrics and tags that wait for the end of the run."""
        self._log(list(self._metrics.values()), self._tags)
        self._metrics, self._tags = {}, {}

    def _log(self, metrics: Sequence[Metric], tags: Mapping[str, str]) -> None:
        from mlflow.entities import RunTag

        entries = [RunTag(name, value) for name, value in tags.items()]
        with using(self._client):
            for start in range(0, max(len(metrics), 1), _BATCH):
                self._client.log_batch(self.run_id, metrics[start : start + _BATCH], tags=entries if not start else ())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _digest(text: str) -> str:
    """What stands in the param for a text of 6,001 characters or more: equal texts keep equal params."""
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()} ({len(text):,} characters, whole in {LONG_PARAMS})"
