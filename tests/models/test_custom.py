"""A person's own factory, imported from the working directory."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from torch import nn

from quant_sweep.errors import InputError
from quant_sweep.models import from_callable

SOURCE = """
from torch import nn

def small(width, num_classes):
    return nn.Linear(width, num_classes)

def anything(**kwargs):
    return kwargs

def fails():
    raise KeyError("inside")

class Nets:
    tiny = nn.ReLU

number = 3
"""


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    (tmp_path / "own_nets.py").write_text(SOURCE)
    (tmp_path / "broken_nets.py").write_text("def small(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p])
    yield
    for name in ("own_nets", "broken_nets"):
        sys.modules.pop(name, None)


def build(factory: str, **kwargs: object) -> nn.Module:
    return from_callable(num_classes=10, in_channels=3, factory=factory, kwargs=kwargs)


def test_gets_its_kwargs_and_what_it_asks_of_the_data() -> None:
    model = build("own_nets:small", width=4)
    assert isinstance(model, nn.Linear)
    assert (model.in_features, model.out_features) == (4, 10)


def test_kwargs_win_over_the_data() -> None:
    model = build("own_nets:small", width=4, num_classes=2)
    assert isinstance(model, nn.Linear)
    assert model.out_features == 2


def test_class_inside_a_class() -> None:
    assert isinstance(build("own_nets:Nets.tiny"), nn.ReLU)


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("own_nets", "not of the form package.module:function"),
        (":small", "not of the form package.module:function"),
        ("no_such_nets:small", "cannot be imported"),
        ("own_nets:none_such", "cannot be imported"),
        ("broken_nets:small", "cannot be imported"),
        ("own_nets:number", "is a int; it must be callable"),
        ("own_nets:anything", "returned a dict; it must return an nn.Module"),
    ],
)
def test_unusable_factory(factory: str, message: str) -> None:
    with pytest.raises(InputError, match=r"^model\.factory=") as error:
        build(factory)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kwargs", [{}, {"width": 4, "depth": 2}])
def test_arguments_that_do_not_fit(kwargs: dict[str, int]) -> None:
    with pytest.raises(InputError, match=r"^model.kwargs=.*own_nets:small \(width, num_classes\)"):
        build("own_nets:small", **kwargs)


def test_an_error_of_its_own_keeps_its_traceback() -> None:
    with pytest.raises(KeyError, match="inside"):
        build("own_nets:fails")
