"""Find and record the runs of one experiment.

The order of the writes is what makes a run countable: params first, then everything the work yields, then MLflow's
status FINISHED, then the completion mark. A process that dies anywhere leaves no mark. Who records a key holds its
lock; the system frees the lock of a killed process, and the next holder closes the run that was left open. Locks work
between processes that share `lock_dir`; machines that share only a server may do the same point twice, and then the
newest finished run counts.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from quant_sweep.tracking.failures import one_line, using
from quant_sweep.tracking.provenance import provenance
from quant_sweep.tracking.recorder import DIGESTS, Recorder, file_digest
from quant_sweep.tracking.runs import ERROR, KEY, KIND, MARK, PARENT, Kind, frame, search, status_of
from quant_sweep.tracking.store import absolute_uri, experiments, make_folder, open_existing, open_store
from quant_sweep.tracking.sweep_run import SweepPage, members_of, members_tags, record_sweep
from quant_sweep.tracking.view import LOCAL, address, save_view

if TYPE_CHECKING:
    import pandas as pd
    from mlflow.entities import Run
    from mlflow.tracking import MlflowClient

_LONGEST_ERROR = 1000  # characters
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinishedRun:
    """A run whose completion mark is there. Params are text, as MLflow keeps them."""

    run_id: str
    name: str
    metrics: dict[str, float]
    params: dict[str, str]


@dataclass(frozen=True)
class Tracker:
    """The runs of one experiment; open it with `Tracker.open`."""

    client: MlflowClient
    experiment_id: str
    lock_dir: Path

    @classmethod
    def open(cls, uri: str, experiment: str, artifacts: Path, lock_dir: Path) -> Tracker:
        """Connect to the store and create what is missing; safe in many processes at once.

        Args:
            uri: `sqlite:///path` (relative to the working folder, or absolute) or the http(s) address of a server.
            experiment: name of the MLflow experiment.
            artifacts: where a new experiment of a local store keeps its files; a server keeps its own.
            lock_dir: folder of the lock files, shared by all processes that share the store.

        Raises:
            InputError: the store cannot be used; within seconds.
        """
        absolute = absolute_uri(uri)
        make_folder(lock_dir, "tracking.lock_dir", str(lock_dir))
        client, experiment_id = open_store(absolute, experiment, artifacts)
        return cls(client, experiment_id, lock_dir.absolute())

    @classmethod
    def open_existing(cls, uri: str, experiment: str, lock_dir: Path) -> Tracker:
        """Connect to an experiment that is there; creates nothing.

        Raises:
            InputError: no such store or experiment.
        """
        return cls(*open_existing(absolute_uri(uri), experiment), lock_dir.absolute())

    def find_finished(self, key: str) -> FinishedRun | None:
        """The newest run of `key` whose completion mark is there."""
        query = f"tags.`{KEY}` = '{_checked(key)}' and tags.`{MARK}` = 'true'"
        with using(self.client):
            found = self.client.search_runs([self.experiment_id], query, order_by=["start_time DESC"], max_results=1)
        if not found:
            return None
        run = found[0]
        return FinishedRun(run.info.run_id, run.info.run_name or "", dict(run.data.metrics), dict(run.data.params))

    @contextlib.contextmanager
    def lock(self, key: str) -> Iterator[None]:
        """Let one process at a time work on `key`; waits for its turn. A killed process gives its turn up."""
        lock = FileLock(self.lock_dir / f"{_checked(key)}.lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            _log.info("waiting: another process works on %s", key)
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def record(
        self,
        *,
        kind: Kind,
        key: str,
        name: str,
        params: Mapping[str, object],
        parent: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Iterator[Recorder]:
        """Record one run; call it while you hold `lock(key)`.

        Runs of `key` that a dead process left open are set to KILLED first. Leaving the block normally sets the
        completion mark as the very last write; an exception leaves the run FAILED (KILLED for Ctrl-C) with its first
        line in a tag, and goes on.

        Args:
            kind: what the run is.
            key: names the work; letters, digits and `_.-`.
            name: for people.
            params: flat; values are kept as text.
            parent: run id of the sweep that it belongs to.
            tags: more tags.
        """
        self._close_left_open(key)
        all_tags = {**(tags or {}), KEY: key, KIND: kind} | ({PARENT: parent} if parent else {})
        run_id = self._create_run(name, {**provenance(), **all_tags})
        recorder = None
        try:
            recorder = Recorder(self.client, run_id)
            recorder.params(params)
            yield recorder
            recorder.seal()
        except BaseException as error:
            if recorder is not None:
                _flush(recorder)
            self._end(run_id, "FAILED" if isinstance(error, Exception) else "KILLED", error)
            raise
        self._finish(run_id)

    def sweep(self, name: str) -> str:
        """The run id of the parent of a multirun, created on the first call with this `name`."""
        with self.lock(f"sweep-{_checked(name)}"):
            found = self._find_sweep(name)
            if found is not None:
                return found
            self._close_abandoned()
            return self._create_run(f"sweep {name}", {**provenance(), KEY: name, KIND: "sweep"})

    def note_sweep(self, name: str, members: Sequence[str], tags: Mapping[str, str]) -> str | None:
        """Write into the parent of a multirun which points it has, those too that were finished before.

        A multirun whose points were all finished before gets a parent, unless an earlier sweep has the same members.

        Args:
            members: run ids.
            tags: more words about it.

        Returns:
            run id of the parent, or of that earlier sweep; None where there is nothing to tell.
        """
        found = self._find_sweep(name)
        if found is None and members:
            found = self._sweep_of(members) or self.sweep(name)
        if found is not None:
            record_sweep(self.client, found, tags={**tags, **members_tags(members)})
        return found

    def finish_sweep(self, run_id: str | None, page: SweepPage) -> None:
        """Close the parent of a multirun, its jobs failed or not; it gets `page`."""
        if run_id is not None:
            record_sweep(self.client, run_id, page)
            self._finish(run_id)
        self._close_abandoned()

    def kill_sweep(self, run_id: str | None, error: BaseException, page: SweepPage) -> None:
        """Close the parent of a multirun that was stopped by `error`."""
        if run_id is not None:
            record_sweep(self.client, run_id, page)
            self._end(run_id, "KILLED", error)

    def _sweep_of(self, members: Sequence[str]) -> str | None:
        """The newest finished sweep with exactly these members."""
        query = f"tags.`{KIND}` = 'sweep' and tags.`{MARK}` = 'true'"
        alike = (run for run in search(self.client, self.experiment_id, query) if _members(run) == set(members))
        return next((str(run.info.run_id) for run in alike), None)

    def _find_sweep(self, name: str) -> str | None:
        query = f"tags.`{KEY}` = '{_checked(name)}' and tags.`{KIND}` = 'sweep'"
        with using(self.client):
            found = self.client.search_runs([self.experiment_id], query, max_results=1)
        return str(found[0].info.run_id) if found else None

    def load_artifact(self, run_id: str, path: str) -> Path | None:
        """A local file with the artifact `path` of a finished run: the stored file, or a temporary copy of a server's.

        Do not write to it. None where it is gone, or is not as it was written.
        """
        from mlflow.exceptions import MlflowException

        with using(self.client):
            tags = self.client.get_run(run_id).data.tags
            try:
                file = Path(self.client.download_artifacts(run_id, path))
            except MlflowException as error:
                if error.error_code == "RESOURCE_DOES_NOT_EXIST":
                    return None
                raise
        try:
            return file if file_digest(file) == json.loads(tags[DIGESTS])[path] else None
        except (OSError, LookupError, ValueError):
            return None

    def runs(self) -> pd.DataFrame:
        """Every run of the experiment; see `read_runs`."""
        return frame(self.client, self.experiment_id)

    def address(self, local: str = LOCAL, metric: str | None = None, higher_is_better: bool = True) -> str:
        """Where a browser finds the runs of the experiment as a table of results; the view is made if need be.

        Args:
            local: where `quant-sweep-ui` serves a store without a server.
            metric: by which the table is sorted, the best first; None leaves a view as it is.
        """
        try:
            save_view(self.client, self.experiment_id, metric, higher_is_better)
        except Exception as failure:  # a store that can be read only
            _log.warning("the view of MLflow's pages could not be saved: %s", one_line(failure))
        return address(self.client.tracking_uri, self.experiment_id, local)

    def report_address(self, run_id: str) -> str:
        """Where a browser finds the report of the sweep `run_id`."""
        return address(self.client.tracking_uri, self.experiment_id, run_id=run_id)

    def _create_run(self, name: str, tags: Mapping[str, str]) -> str:
        with using(self.client):
            return str(self.client.create_run(self.experiment_id, tags=dict(tags), run_name=name).info.run_id)

    def _finish(self, run_id: str) -> None:
        with using(self.client):
            self.client.set_terminated(run_id, "FINISHED")
            self.client.set_tag(run_id, MARK, "true")

    def _end(self, run_id: str, status: str, error: BaseException) -> None:
        """Note why a run ended. If even that fails, the error of the work is the one to see."""
        lines = str(error).strip().splitlines() or [""]
        try:
            self.client.set_tag(run_id, ERROR, f"{type(error).__name__}: {lines[0]}"[:_LONGEST_ERROR])
            self.client.set_terminated(run_id, status)
        except Exception as failure:
            _log.warning("run %s could not be set to %s: %s", run_id, status, one_line(failure))

    def _close_abandoned(self) -> None:
        """Set what dead processes left open to KILLED: runs whose lock lies here and is held by nobody.

        A run of another machine, whose processes this one does not know, has no lock here.
        """
        died_at_the_end = f"attributes.status = 'FINISHED' and tags.`{KIND}` = 'sweep'"  # before the mark
        for query in ("attributes.status = 'RUNNING'", died_at_the_end):
            for run in list(search(self.client, self.experiment_id, query)):
                key, kind = (run.data.tags.get(name, "") for name in (KEY, KIND))
                path = _alive_path(self.lock_dir, key) if kind == "sweep" else self.lock_dir / f"{key}.lock"
                if status_of(run) == "running" and path.is_file():
                    with contextlib.suppress(Timeout), FileLock(path, timeout=0), using(self.client):
                        if status_of(self.client.get_run(run.info.run_id)) == "running":  # now, under its lock
                            self.client.set_terminated(run.info.run_id, "KILLED")

    def _close_left_open(self, key: str) -> None:
        query = f"tags.`{KEY}` = '{_checked(key)}'"
        for run in list(search(self.client, self.experiment_id, query)):
            if status_of(run) == "running":
                with using(self.client):
                    self.client.set_terminated(run.info.run_id, "KILLED")


def addresses(uri: str, lock_dir: Path, local: str) -> list[tuple[str, str]]:
    """Each experiment of a store that has runs of ours, and where a browser finds its results.

    Raises:
        InputError: no such store; nothing is created.
    """
    found = []
    for name in experiments(absolute_uri(uri)):
        tracker = Tracker.open_existing(uri, name, lock_dir)
        with using(tracker.client):
            ours = tracker.client.search_runs([tracker.experiment_id], f"tags.`{KIND}` != ''", max_results=1)
        if ours:
            found.append((name, tracker.address(local)))
    return found


def _flush(recorder: Recorder) -> None:
    """Write what a run has come to before it failed; the error of the work is the one to see."""
    try:
        recorder.flush()
    except Exception as failure:
        _log.warning("run %s: its metrics could not be written: %s", recorder.run_id, one_line(failure))


def _members(run: Run) -> set[str]:
    return set(members_of(run.data.tags))


def sweep_alive(lock_dir: Path, name: str) -> AbstractContextManager[object]:
    """Say that the multirun `name` goes on, until the context that is returned ends, or the process does.

    Where `lock_dir` cannot be written nothing is said; `Tracker.open` refuses it.
    """
    try:
        lock_dir.mkdir(parents=True, exist_ok=True)
        return FileLock(_alive_path(lock_dir, name)).acquire(timeout=0)
    except (OSError, Timeout):
        return contextlib.nullcontext()


def _alive_path(lock_dir: Path, name: str) -> Path:
    """The lock that the process of a multirun holds; one of another name serves who creates its parent."""
    return lock_dir / f"sweep-{name}.alive.lock"


def _checked(key: str) -> str:
    """A key becomes a file name and part of a query; both want plain letters."""
    if not re.fullmatch(r"[\w.\-]{1,200}", key, re.ASCII):
        raise ValueError(f"key {key!r} must be 1 to 200 letters, digits or _.-")
    return key
