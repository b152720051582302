"""What a person may mistype: one line that names key, value and what is allowed, before any work; nothing is run."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from terminal import Outcome, Workspace

from quant_sweep.cli.hydra_app import config_folder
from quant_sweep.models import resnet20, resnet32
from quant_sweep.sweep import quantize_model, run

BITS = "allowed are the whole numbers 2 to 16"
Refused = Callable[..., str]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    return Workspace(tmp_path_factory.mktemp("mistakes"))


@pytest.fixture(scope="module")
def weights(place: Workspace) -> Path:
    """Weights that fit; that nobody trained them is not noticed before the first image."""
    path = place.folder / "untrained.th"
    torch.save(resnet20(num_classes=10, in_channels=1).state_dict(), path)
    return path


@pytest.fixture
def refused(place: Workspace, weights: Path, monkeypatch: pytest.MonkeyPatch) -> Refused:
    """Types a command that must not get as far as the first image, and returns the one line it leaves."""
    for module, work in ((quantize_model, "calibrate"), (quantize_model, "calibrate_sequentially"), (run, "evaluate")):
        monkeypatch.setattr(module, work, lambda *_, name=work, **__: pytest.fail(f"{name} began"))

    def type_(*arguments: str, command: str = "quant-sweep") -> str:
        model = [] if any(a.startswith("model") for a in arguments) else [f"model.checkpoint={weights}"]
        outcome = place.type(command, *arguments, *model)
        if (place.folder / "mlruns" / "mlflow.db").exists():
            assert "finished" not in set(place.runs()["status"])
        return the_line(outcome, command)

    return type_


def the_line(outcome: Outcome, command: str = "quant-sweep") -> str:
    assert outcome.code not in (0, 1), outcome.err
    assert "Traceback" not in outcome.err + outcome.out
    others = ("Error executing job with overrides", "2026/", "20")  # Hydra's line; MLflow's, which begin with the date
    lines = [line for line in outcome.err.splitlines() if line and not line.startswith(others)]
    assert len(lines) == 1, lines
    assert lines[0].startswith(f"{command}: ")
    return lines[0].removeprefix(f"{command}: ")


@pytest.mark.parametrize(
    ("key", "bits"),
    [
        *(("bits", bits) for bits in ("0", "17", "8.5", "x", "", "null", "[8]", "true")),
        *((key, bits) for key in ("weight_bits", "activation_bits") for bits in ("1", "17")),
    ],
)
def test_widths(refused: Refused, key: str, bits: str) -> None:
    line = refused(f"{key}={bits}")
    assert line.startswith(f"{key}={bits.capitalize() if bits == 'true' else bits}: ") or bits == "null"
    assert line.startswith(key)
    assert BITS in line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["bts=4"], "bts=4: no such key; allowed are activation_bits, "),
        (["observer.percentile=5"], "observer.percentile=5: no such key; allowed are _target_, name"),
        (["data=nonsense"], "data=nonsense: there is none; allowed are arrays, cifar10, custom, digits"),
        (["experiment=x"], "experiment=x: there is none; allowed are cifar10, original, "),
        (["fusion=x"], "fusion=x: Invalid value 'x', expected one of [none, bn, conv_bn_relu]"),
        (["force=maybe"], "force='maybe': allowed are true and false"),
        (["overrides=none.yaml"], "overrides=none.yaml: there is no such file; allowed is"),
        (["overrides={nonsense: 8}"], "overrides.nonsense: no quantized tensor is called or begins like this; there"),
        (
            ["calibration.images=1348"],
            "calibration.images=1348: cannot draw that many; allowed: a whole number from 2 to",
        ),
        (["tracking.uri=http://127.0.0.1:1"], "tracking.uri='http://127.0.0.1:1': cannot be used"),
        (["tracking.uri=nonsense"], "tracking.uri='nonsense': no store that can be used; use sqlite:///"),
        (
            ["engine=builtin"],
            "observer=mse: engine=builtin calibrates with torch.ao's own observers; allowed are minmax",
        ),
        (["model=custom", "model.factory=nowhere:net"], "model.factory=nowhere:net: cannot be imported"),
        (["model.checkpoint=nowhere.th"], "model.checkpoint=nowhere.th: no such file; train it with quant-sweep-train"),
        (
            ["data=imagefolder"],
            "data.root=null: no folder given; allowed: a folder with train/<class>/ and test/<class>/",
        ),
        (["data=imagefolder", "data.root=nowhere"], "data.root=nowhere: no such folder; allowed: "),
        (["data=cifar10", "data.download=false"], "data.root="),
        (["observer=mse,hist"], "Ambiguous value for argument 'observer=mse,hist'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_values(refused: Refused, arguments: list[str], line: str) -> None:
    assert refused(*arguments).startswith(line)


@pytest.mark.parametrize("group", ["observer", "weight_observer"])
def test_unknown_observer_lists_the_observers(refused: Refused, group: str) -> None:
    there = sorted(path.stem for path in (config_folder() / "observer").glob("*.yaml"))
    assert {"hist", "minmax", "mse"} <= set(there)
    assert refused(f"{group}=nonsense") == f"{group}=nonsense: there is none; allowed are {', '.join(there)}"


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a GPU")
def test_no_gpu(refused: Refused) -> None:
    assert refused("device=cuda") == "device=cuda: no GPU can be used here; allowed are cpu and auto"


def test_place_below_a_file(refused: Refused, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert refused(f"outputs_dir={tmp_path}/file/outputs").startswith(f"{tmp_path}/file/outputs")
    for key in ("tracking.lock_dir", "tracking.artifacts", "data.cache_dir"):
        assert refused(f"{key}={tmp_path}/file/x").startswith(f"{key}=")
    assert refused(f"tracking.uri=sqlite:///{tmp_path}/file/x.db").startswith("tracking.uri=")


class RunsCode:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def bad_checkpoint(kind: str, folder: Path) -> Path:
    path = folder / "weights.th"
    state = resnet20(num_classes=10, in_channels=1).state_dict()
    if kind == "architecture":
        state = resnet32(num_classes=10, in_channels=1).state_dict()
    if kind == "classes":
        state = resnet20(num_classes=7, in_channels=1).state_dict()
    if kind == "nan":
        state["layer1.0.conv1.weight"][0, 0, 0, 0] = torch.nan
    torch.save({**state, "extra": RunsCode(folder / "executed")} if kind == "code" else state, path)
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:1000])
    if kind == "code without torch":
        path.write_bytes(pickle.dumps(RunsCode(folder / "executed")))
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("truncated", "cannot be read, truncated or not a checkpoint"),
        ("code", "is not opened, since that can run code"),
        ("code without torch", "is not opened, since that can run code"),
        ("architecture", "does not fit CifarResNet: 0 missing; "),
        ("classes", "has 7 outputs, the images have 10 classes; choose the data that it was trained on"),
        ("nan", "layer1.0.conv1.weight holds 1 NaN or infinite values"),
    ],
)
def test_checkpoints(refused: Refused, tmp_path: Path, kind: str, message: str) -> None:
    path = bad_checkpoint(kind, tmp_path)
    line = refused(f"model.checkpoint={path}")
    assert line.startswith(f"model.checkpoint={path}: ")
    assert message in line
    assert not (tmp_path / "executed").exists()


def test_weights_that_a_users_model_brings(refused: Refused, place: Workspace) -> None:
    (place.folder / "brought.py").write_text(
        "import torch\nfrom torch import nn\n\n"
        "def broken():\n    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
        "    nn.init.constant_(net[1].bias, torch.inf)\n    return net\n"
    )
    line = refused("model=custom", "model.factory=brought:broken")
    assert line.startswith("model=custom: 1.bias holds NaN or infinity")


@pytest.mark.parametrize("kind", ["no classes", "empty class", "corrupt", "missing class"])
def test_image_folders(refused: Refused, tmp_path: Path, kind: str) -> None:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (tmp_path / split / name).mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(tmp_path / split / name / "a.png")
    if kind == "no classes":
        for split in ("train", "test"):
            (tmp_path / split).rename(tmp_path / f"{split}-away")
            (tmp_path / split).mkdir()
    if kind == "empty class":
        (tmp_path / "test" / "dog" / "a.png").unlink()
    if kind == "corrupt":
        (tmp_path / "train" / "cat" / "a.png").write_bytes(b"\x89PNG nonsense")
    if kind == "missing class":
        (tmp_path / "test" / "dog").rename(tmp_path / "test" / "bird")
    said = {
        "no classes": "image folder without classes, train/ holds no folder; allowed: ",
        "empty class": "class without images, test/dog/; allowed: ",
        "corrupt": "cannot decode",
        "missing class": "1 classes missing in test/, first dog; allowed: ",
    }
    line = refused("data=imagefolder", f"data.root={tmp_path}", "data.size=8")
    assert line.startswith("data.root")
    assert said[kind] in line
    assert str(tmp_path) in line


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["-m", "bits=0,4"], "bits=0: "),
        (["-m", "observer=mse,nonsense"], "observer=nonsense: there is none; allowed are "),
        (["-m", "tracking.uri=http://127.0.0.1:1", "bits=4,8"], "tracking.uri='http://127.0.0.1:1': cannot be used"),
        (["-m", "model.checkpoint=nowhere.th", "bits=4,8"], "model.checkpoint=nowhere.th: no such file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_in_a_multirun(refused: Refused, arguments: list[str], line: str) -> None:
    assert refused(*arguments).startswith(line)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["train.epochs=0"], "train.epochs=0: "),
        (["train=nonsense"], "train=nonsense: there is none; allowed are cifar10, "),
        (["train.lr=nan"], "train.lr=nan: "),
        (["tracking.uri=http://127.0.0.1:1"], "tracking.uri='http://127.0.0.1:1': cannot be used"),
        (["model=custom"], "model.factory=???: it must be given"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_of_training(refused: Refused, arguments: list[str], line: str) -> None:
    assert refused(*arguments, command="quant-sweep-train").startswith(line)


def test_of_the_report(tmp_path: Path) -> None:
    line = the_line(Workspace(tmp_path).type("quant-sweep-report"), "quant-sweep-report")
    assert line.startswith(f"tracking.uri='sqlite:///{tmp_path}/mlruns/mlflow.db': no such database; run a sweep first")
    assert not (tmp_path / "mlruns").exists()
