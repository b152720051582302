"""Settings and fixtures that all tests share."""

import logging
import os
import shutil
import signal
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

# Shared machines stall now and then, which says nothing about the code; CI repeats the same examples every time.
settings.register_profile("local", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("ci", settings.get_profile("local"), derandomize=True)
# make mutate asks only whether a test fails, not on which least example.
settings.register_profile("mutate", settings.get_profile("ci"), phases=set(Phase) - {Phase.shrink, Phase.explain})
settings.load_profile("ci" if os.environ.get("CI") else "local")

# torch traces every export for whoever listens, thousands of records that pytest would keep.
logging.getLogger("torch.__trace").setLevel(logging.WARNING)
logging.getLogger("torch.__trace").propagate = False

# Below nohup one is ignored, behind & in a script the other, and so they would be in all commands that tests start.
signal.signal(signal.SIGHUP, signal.SIG_DFL)
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def schema_made_once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """MLflow takes two seconds for the schema of a store, of which tests make a hundred: all are copies of the first.

    Tests of how it is made ask for `schema_made_each_time`.
    """
    from quant_sweep.runtime.atomic_file import replacing
    from quant_sweep.tracking import database, store

    first = tmp_path_factory.mktemp("store") / "first.db"

    def copied(wanted: Path, artifacts: str) -> None:
        if not first.exists():
            database.create_whole(first, artifacts)
        with replacing(wanted) as unfinished:
            shutil.copyfile(first, unfinished)
            with closing(sqlite3.connect(unfinished)) as connection, connection:
                connection.execute("UPDATE experiments SET artifact_location = ?", (f"{artifacts}/0",))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "create_whole", copied)
        yield


@pytest.fixture(scope="session", autouse=True)
def config_files_read_once_for_all() -> Iterator[None]:
    """Those of one place; a test that writes one does so in a folder of its own."""
    from quant_sweep.cli.hydra_app import config_files_read_once

    with config_files_read_once():
        yield


@pytest.fixture
def schema_made_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    from quant_sweep.tracking import database, store

    monkeypatch.setattr(store, "create_whole", database.create_whole)


@pytest.fixture(scope="module")
def exact_int8() -> int:
    """How many bits the weights of `Int8` may have on this CPU; tests that ask are skipped where it has no kernels."""
    from exact_kernels import WEIGHT_BITS, needs_int8  # not where nobody asks: it imports torch

    if needs_int8.args[0]:
        pytest.skip(needs_int8.kwargs["reason"])
    return WEIGHT_BITS
