"""A trained network and an empty working folder for the tests of commands."""

from collections.abc import Callable
from pathlib import Path

import pytest
from configured import RESNET8
from terminal import Outcome, Workspace, quick


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    return Workspace(tmp_path)


@pytest.fixture(scope="session")
def training(tmp_path_factory: pytest.TempPathFactory) -> tuple[Workspace, Outcome]:
    """A workspace in which the command for it trained resnet8 on the digits for a moment."""
    place = Workspace(tmp_path_factory.mktemp("training"))
    return place, place.type("quant-sweep-train", *RESNET8, "train.epochs=2", "device=cpu")


@pytest.fixture(scope="session")
def checkpoint(training: tuple[Workspace, Outcome]) -> Path:
    place, outcome = training
    assert outcome.code == 0, outcome.err
    return place.folder / "outputs" / "train" / "resnet8-digits" / "best.safetensors"


@pytest.fixture
def sweeping(checkpoint: Path) -> Callable[..., list[str]]:
    """Arguments of a quick run, and more."""
    return lambda *more: [*quick(checkpoint), *more]
