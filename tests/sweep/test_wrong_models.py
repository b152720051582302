"""Models, images and stores that cannot be used, each told in one line; faults of a person's own code are not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from configured import composed

from quant_sweep.errors import InputError, NotFiniteError
from quant_sweep.evaluation.evaluate import evaluate
from quant_sweep.sweep.build import load_data, open_tracker, plain
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.prepare import prepare
from quant_sweep.sweep.store import check_store

NETS = """
import sys
import torch
from torch import nn

def leaves(): sys.exit(3)
def nothing(): return None
def wide_kernel(): return nn.Sequential(nn.Conv2d(1, 4, 11), nn.Flatten(), nn.Linear(4, 10))
def colours(): return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 10))
def wrong_linear(): return nn.Sequential(nn.Flatten(), nn.Linear(65, 10))
def seven(): return nn.Sequential(nn.Flatten(), nn.Linear(64, 7))
def raises(): raise KeyError("mine")
class Faulty(nn.Module):
    def forward(self, x): raise RuntimeError("a fault of mine")
def infinite():
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    nn.init.constant_(net[1].weight, torch.inf)
    return net
def two(): return nn.Identity()
"""
Load = Callable[..., object]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Load:
    (tmp_path / "nets_of_a_person.py").write_text(NETS)
    (tmp_path / "leaves_on_import.py").write_text("import sys\nsys.exit('bye')\n")
    monkeypatch.syspath_prepend(tmp_path)

    def model(*overrides: str) -> object:
        cfg = composed(f"outputs_dir={tmp_path}", "model=custom", *overrides)
        return prepare(read_point(cfg))

    return model


@pytest.mark.parametrize(
    ("factory", "line"),
    [
        ("../x:f", r"^model\.factory=\.\./x:f: not of the form package\.module:function"),
        ("x", "^model.factory=x: not of the form"),
        (".x:f", "^model.factory=.x:f: not of the form"),
        ("a b:f", "^model.factory=a b:f: not of the form"),
        ("os:", "^model.factory=os:: not of the form"),
        ("nowhere:f", "^model.factory=nowhere:f: cannot be imported"),
        ("nets_of_a_person:f", "^model.factory=nets_of_a_person:f: cannot be imported"),
        ("nets_of_a_person:NETS", "^model.factory=nets_of_a_person:NETS: cannot be imported"),
        ("leaves_on_import:f", r"its module called sys\.exit\(bye\) on import"),
        ("nets_of_a_person:leaves", r"called sys\.exit\(3\)"),
        ("nets_of_a_person:nothing", "returned a NoneType; it must return an nn.Module"),
        ("nets_of_a_person:wide_kernel", r"^model=custom: cannot take images of 1 x 8 x 8 \(.*[Kk]ernel size"),
        ("nets_of_a_person:colours", r"^model=custom: cannot take images of 1 x 8 x 8 \(.*3 channels"),
        ("nets_of_a_person:wrong_linear", r"^model=custom: cannot take images of 1 x 8 x 8 \(.*multiplied"),
        ("nets_of_a_person:seven", "the images have 10 classes"),
        ("nets_of_a_person:infinite", "holds NaN or infinity"),
        ("nets_of_a_person:two", "the images have 10 classes"),
    ],
)
def test_factories(load: Load, factory: str, line: str) -> None:
    for _ in range(2):  # what is wrong is remembered, and told again
        with pytest.raises(InputError, match=line):
            load(f"model.factory='{factory}'")


@pytest.mark.parametrize(("factory", "error"), [("raises", KeyError), ("Faulty", RuntimeError)])
def test_a_fault_of_a_persons_own_code_is_shown_as_it_is(load: Load, factory: str, error: type[Exception]) -> None:
    with pytest.raises(error, match="mine"):
        load(f"model.factory=nets_of_a_person:{factory}")


def test_nan_logits_are_an_input(tmp_path: Path) -> None:
    data = load_data(plain(composed(f"outputs_dir={tmp_path}").data))
    net = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.nn.init.constant_(net[1].weight, torch.nan)
    with pytest.raises(NotFiniteError, match=r"^model: NaN logits in the evaluation; check model\.checkpoint"):
        evaluate(net, data, data.test, 128)
    assert issubclass(NotFiniteError, InputError)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["data.size=100000"], "data.size=100000: allowed are up to 512"),
        (["data.size=0"], "data.size=0: not a number of pixels"),
        (["data.size=true"], "data.size=True: allowed is a whole number"),
        (["data.size=null"], "data.size=None: allowed is a whole number"),
        (["data.seed=-1"], "data.seed=-1: allowed are"),
        (["data.seed=99999999999999"], "data.seed=99999999999999: allowed are"),
        (["data.test_fraction=x"], "data.test_fraction='x': allowed is a number"),
        (["data.test_fraction=nan"], "data.test_fraction=nan: cannot split there"),
        (["data.mean=5"], "data.mean=5: allowed is a list of numbers"),
        (["data.mean=[x]"], "data.mean=.*: allowed is a list of numbers"),
        (["data.std=[0]"], r"data.std=\[0\]: outside"),
        (["data.std=[0.1,0.2]"], "data.std=.*: 2 numbers; allowed: 1"),
        (["data=imagefolder", "data.root=5"], "data.root=5: allowed is text, or null"),
        (["data=imagefolder", "data.root=[a]"], "data.root=.*: allowed is text, or null"),
        (["data=imagefolder", "data.root=''"], "data.root="),
        (["data=imagefolder", "data.resize=true"], "data.resize=True: allowed is a whole number, or null"),
        (["data=imagefolder", "data.skip_broken=1"], "data.skip_broken=1: allowed are true and false"),
        (["data=imagefolder", "data.root=/dev/null"], "data.root=/dev/null: no such folder"),
        (["data=cifar10", "data.download=maybe"], "data.download='maybe': allowed are true and false"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_images(tmp_path: Path, overrides: list[str], line: str) -> None:
    with pytest.raises(InputError, match=line):
        load_data(plain(composed(f"outputs_dir={tmp_path}", *overrides).data))


@pytest.mark.parametrize("uri", ["sqlite:////proc/x.db", "sqlite:////sys/x.db"])
def test_a_database_where_no_file_can_be_made(tmp_path: Path, uri: str) -> None:
    cfg = composed(f"tracking.uri={uri}", f"tracking.lock_dir={tmp_path}", f"tracking.artifacts={tmp_path}")
    with pytest.raises(InputError, match=r"no file can be made in /(proc|sys)"):
        open_tracker(cfg)
    check_store(cfg.tracking)  # to read is another matter
