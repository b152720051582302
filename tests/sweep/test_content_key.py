"""The same key means the same numbers: what decides a number changes it, nothing else does."""

import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from configured import RESNET8
from wrong_inputs import config_of

from quant_sweep.models import write_checkpoint
from quant_sweep.models.cifar_resnet import CifarResNet
from quant_sweep.sweep import run
from quant_sweep.sweep.content_key import code_version, collector_version, content_key
from quant_sweep.tracking import Tracker

PACKAGE = Path(run.__file__).parents[1]


class AskedError(Exception):
    """The key under which a run looked for itself."""


class NoTracker:
    def lock(self, key: str):
        raise AskedError(key)


KeyOf = Callable[..., str]


@pytest.fixture(scope="module")
def key_of(tmp_path_factory: pytest.TempPathFactory) -> KeyOf:
    """The key that `run_point` gives to a config."""
    folder = tmp_path_factory.mktemp("key")
    for seed in (0, 1):
        torch.manual_seed(seed)
        write_checkpoint(folder / f"{seed}.safetensors", CifarResNet(1, num_classes=10, in_channels=1).state_dict(), {})

    @cache
    def ask(*overrides: str, weights: int = 0) -> str:
        cfg = config_of(
            *RESNET8,
            f"outputs_dir={folder}",
            f"model.checkpoint={folder}/{weights}.safetensors",
            "calibration.images=64",
            *overrides,
        )
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(run, "open_tracker", lambda _: NoTracker())
            with pytest.raises(AskedError) as asked:
                run.run_point(cfg, sweep=None)
        return str(asked.value)

    return ask


@pytest.mark.parametrize(
    "override",
    [
        "bits=4",
        "weight_bits=4",
        "activation_bits=4",
        "overrides={input: 4}",
        "observer=minmax",
        "observer=hist",
        "weight_observer=mse",
        "fusion=none",
        "scheme=symmetric",
        "scheme.weight_narrow_range=false",
        "scheme.activation_narrow_range=true",
        "calibration=sequential",
        "calibration.images=65",
        "calibration.batch_size=32",
        "calibration.augment=true",
        "seed=1",
        "data.size=16",
        "data.seed=1",
        "data.mean=[0.4]",
    ],
)
def test_what_decides_a_number_changes_the_key(key_of: KeyOf, override: str) -> None:
    assert key_of(override) != key_of()


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (["observer=fake_hist"], ["observer=fake_hist", "observer.percentile=99.9"]),
        (
            ["observer=fake_hist", "calibration.batch_size=32"],
            ["observer=fake_hist", "calibration.batch_size=32", "observer.momentum=0.2"],
        ),
        (["fusion=bn"], ["fusion=bn", "scheme.same_grid_around_relu=true"]),
        (["observer=hist"], ["observer=hist", "observer.dst_bins=256"]),
        (["observer=hist"], ["observer=hist", "observer.merge_with_minmax=true"]),
        (["calibration.augment=true"], ["calibration.augment=true", "seed=1"]),
        (["weight_observer=fake_hist"], ["weight_observer=fake_hist", "weight_observer.percentile=99"]),
        (
            ["calibration=sequential", "fusion=none"],
            ["calibration=sequential", "fusion=none", "calibration.update_batch_norm=true"],
        ),
        (["observer=minmax"], ["observer=minmax", "engine=builtin"]),
    ],
)
def test_parameters_of_a_choice_change_the_key(key_of: KeyOf, one: list[str], other: list[str]) -> None:
    assert key_of(*one) != key_of(*other)


def test_weights_change_the_key_not_their_place(key_of: KeyOf, tmp_path: Path) -> None:
    assert key_of(weights=1) != key_of()
    torch.manual_seed(0)
    copy = tmp_path / "copy.safetensors"
    write_checkpoint(copy, CifarResNet(1, num_classes=10, in_channels=1).state_dict(), {})
    assert key_of(f"model.checkpoint={copy}") == key_of()


@pytest.mark.parametrize(
    "overrides",
    [
        ["tracking.experiment=other"],
        ["tracking.uri=http://127.0.0.1:5000"],
        ["force=true"],
        ["batch_size=7"],
        ["device=cpu"],
        ["weight_bits=8", "activation_bits=8"],
    ],
)
def test_how_and_where_do_not_change_the_key(key_of: KeyOf, overrides: list[str]) -> None:
    if torch.cuda.is_available() and overrides == ["device=cpu"]:
        pytest.skip("device=auto is a GPU here")
    assert key_of(*overrides) == key_of()


def test_outputs_dir_does_not_change_the_key(key_of: KeyOf, tmp_path: Path) -> None:
    assert key_of(f"outputs_dir={tmp_path}", f"cache_dir={tmp_path}/elsewhere") == key_of()


def test_bits_reach_the_key_in_whatever_way_they_are_given(key_of: KeyOf) -> None:
    assert (
        key_of("bits=4")
        == key_of("weight_bits=4", "activation_bits=4")
        == key_of("bits=16", "weight_bits=4", "activation_bits=4")
    )
    assert key_of("weight_bits=4") != key_of("activation_bits=4")


def test_same_key_in_every_process() -> None:
    contents = {"observer": {"name": "mse"}, "bits": 8, "overrides": {"input": 8}, "percentile": 99.99}
    program = f"from quant_sweep.sweep.content_key import content_key; print(content_key({contents!r}))"
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "7"}
    ).stdout.strip()
    assert printed == content_key(dict(reversed(contents.items())))


def test_is_a_name_that_the_tracker_takes(tmp_path: Path) -> None:
    key = content_key({})
    assert len(key) == 40
    with Tracker(None, "0", tmp_path).lock(key):  # type: ignore[arg-type]
        assert (tmp_path / f"{key}.lock").exists()


CHANGES = {  # which keys a comment in a file changes, by its folder
    "all": "arithmetic calibration data errors.py graph histograms models runtime",
    "that of the run": "engines evaluation observers quantization recovery sweep",
    "none": "__init__.py cli explain report tracking train",
}


def test_a_comment_in_a_file_changes_the_keys_that_its_folder_decides(tmp_path: Path) -> None:
    changes = {folder: keys for keys, folders in CHANGES.items() for folder in folders.split()}
    changed = {(True, True): "all", (True, False): "that of the run", (False, False): "none"}
    folders = [path for path in PACKAGE.iterdir() if path.name not in ("__pycache__", "py.typed")]
    assert {path.name for path in folders} == changes.keys()
    for folder in folders:  # alone, so that few files are read for each that changes
        package = tmp_path / folder.name
        if folder.is_dir():
            shutil.copytree(folder, package / folder.name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            package.mkdir()
            shutil.copy(folder, package)
        before = uncached_versions(package)
        for path in sorted(path for path in package.rglob("*") if path.is_file()):
            original = path.read_bytes()
            path.write_bytes(original + b"# a comment\n")
            differ = tuple(own != other for own, other in zip(uncached_versions(package), before, strict=True))
            path.write_bytes(original)
            expected = "none" if path.suffix != ".py" else changes[folder.name]
            assert changed[differ] == expected, path.relative_to(package)
        assert uncached_versions(package) == before


def uncached_versions(package: Path) -> tuple[str, str]:
    return code_version.__wrapped__(package), collector_version.__wrapped__(package)


def test_a_file_that_comes_or_goes_changes_the_key(tmp_path: Path) -> None:
    package = tmp_path / "quant_sweep"
    shutil.copytree(PACKAGE, package, ignore=shutil.ignore_patterns("__pycache__"))
    before = uncached_versions(package)
    (package / "engines" / "more.py").touch()
    (package / ".cache").mkdir()
    (package / ".cache" / "copy.py").touch()
    added = uncached_versions(package)
    assert added[0] != before[0]
    assert added[1] == before[1]
    (package / "engines" / "more.py").unlink()
    assert uncached_versions(package) == before


def test_the_order_of_the_file_system_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    before, listed = uncached_versions(PACKAGE), list(PACKAGE.rglob("*.py"))
    for order in (sorted(listed), sorted(listed, reverse=True), listed[1::2] + listed[::2]):
        monkeypatch.setattr(Path, "rglob", lambda _self, _pattern, order=order: iter(order))
        assert uncached_versions(PACKAGE) == before


@pytest.mark.parametrize("name", ["new/module.py", "module.py"])
def test_a_folder_that_is_not_classed_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.touch()
    for version in (code_version, collector_version):
        with pytest.raises(RuntimeError, match="decides numbers or shows them"):
            version(tmp_path)


def test_anything_that_json_cannot_hold_is_refused() -> None:
    with pytest.raises(TypeError):
        content_key({"model": object()})
