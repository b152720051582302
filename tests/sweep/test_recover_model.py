"""Recoveries in a run: made once, kept on disk, recorded, and part of the key."""

import importlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from configured import RESNET8, composed
from omegaconf import DictConfig
from small_networks import shaken
from torch import Tensor

from quant_sweep.errors import InputError
from quant_sweep.models import write_checkpoint
from quant_sweep.models.cifar_resnet import CifarResNet
from quant_sweep.recovery import Bias, Distill, LearningTask, OnGrids, Reconstruct, Recovered
from quant_sweep.sweep import recover_model
from quant_sweep.sweep.build import open_tracker
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.prepare import prepare
from quant_sweep.sweep.quantize_model import quantize_model
from quant_sweep.sweep.recover_model import read_recovered, recovered_key, write_recovered
from quant_sweep.sweep.run import run_point

Config = Callable[..., DictConfig]
FAST = ("recovery.reconstruct.rows=200", "recovery.reconstruct.sweeps=1")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Config:
    folder = tmp_path_factory.mktemp("recover")
    torch.manual_seed(0)
    write_checkpoint(folder / "weights", shaken(CifarResNet(1, num_classes=10, in_channels=1)).state_dict(), {})
    return lambda *overrides: composed(
        *RESNET8,
        *(f"outputs_dir={folder}", f"model.checkpoint={folder}/weights", f"tracking.artifacts={folder}/artifacts"),
        *(f"tracking.uri=sqlite:///{folder}/mlflow.db", f"tracking.lock_dir={folder}/locks", "device=cpu"),
        *("calibration.images=32", "calibration.batch_size=16", "calibration.balanced=false", "bits=4"),
        *overrides,
    )


def test_the_key_knows_widths_and_not_how_they_were_said(config: Config) -> None:
    def key(*overrides: str) -> str:
        return recovered_key(prepare(read_point(config("recovery=bias", *overrides))), ["bias"])

    names = prepare(read_point(config())).graph.names
    said = "{" + ", ".join(f"{name}: 4" for name in names) + "}"
    assert key() == key("bits=8", f"overrides={said}") == key("weight_bits=4", f"overrides={{{names[0]}: 4}}")
    others = ("bits=3", f"overrides={{{names[0]}: 5}}", f"overrides={{{names[0]}: float}}")
    assert len({key(), *map(key, others)}) == 4


def same(one: OnGrids, other: OnGrids) -> bool:
    graphs = [state.graph.graph for state in (one, other)]
    return (
        graphs[0].nodes == graphs[1].nodes
        and graphs[0].constants.keys() == graphs[1].constants.keys()
        and all(torch.equal(value, graphs[1].constants[name]) for name, value in graphs[0].constants.items())
        and one.qparams.keys() == other.qparams.keys()
        and all(torch.equal(grid.scale, other.qparams[name].scale) for name, grid in one.qparams.items())
    )


@pytest.mark.parametrize("fusion", ["conv_bn_relu", "none"])
def test_is_made_once_and_read_as_it_was_made(config: Config, monkeypatch: pytest.MonkeyPatch, fusion: str) -> None:
    done: list[str] = []
    for method in (Bias, Reconstruct):
        original = method.recover
        monkeypatch.setattr(method, "recover", lambda *a, f=original, n=method.__name__: done.append(n) or f(*a))

    def made(*names: str, engine: str = "simulate"):
        cfg = config(
            f"recovery=[{','.join(names)}]",
            f"fusion={fusion}",
            f"engine={engine}",
            *FAST[: 2 * ("reconstruct" in names)],
        )
        return quantize_model(prepare(read_point(cfg)))

    first, longer = made("reconstruct"), made("reconstruct", "bias")
    assert done == ["Reconstruct", "Bias"], "the second begins with what the first left"
    again, other_engine = made("reconstruct", "bias"), made("reconstruct", "bias", engine="auto")
    assert done == ["Reconstruct", "Bias"]
    for read in (again, other_engine):
        assert same(OnGrids(read.graph, read.qparams), OnGrids(longer.graph, longer.qparams))
        assert read.recovery == longer.recovery
    assert list(longer.recovery) == ["reconstruct", "bias"]
    assert longer.recovery["reconstruct"] == first.recovery["reconstruct"]
    made("bias")
    assert done == ["Reconstruct", "Bias", "Bias"]


def test_a_file_that_was_changed_is_not_read(config: Config, tmp_path: Path) -> None:
    prepared = prepare(read_point(config("recovery=bias")))
    quantized = quantize_model(prepare(read_point(config())))
    state = OnGrids(quantized.graph, quantized.qparams)
    path = tmp_path / "file"
    assert read_recovered(path, state) is None
    write_recovered(path, Recovered(state, {}), state)
    found = read_recovered(path, state)
    assert found is not None
    assert same(found.quantized, state)
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))
    assert read_recovered(path, state) is None
    assert len(recovered_key(prepared, ["bias"])) == 40


def test_what_decides_a_recovery_is_in_its_key_and_engines_are_not(config: Config) -> None:
    def key(*overrides: str) -> str:
        prepared = prepare(read_point(config("recovery=[reconstruct,distill]", *overrides)))
        return recovered_key(prepared, ["reconstruct"])

    assert key() == key("engine=simulate") == key("recovery.distill.steps=7") == key("batch_size=3")
    for decides in ("bits=3", "observer=minmax", "seed=1", "recovery.reconstruct.rows=9", "calibration.images=40"):
        assert key(decides) != key()


@pytest.mark.parametrize("images", [50, 100_000])
def test_learns_and_is_judged_on_images_apart(config: Config, monkeypatch: pytest.MonkeyPatch, images: int) -> None:
    """Each on some of calibration's and on others; no image does both, and those of calibration come first."""
    tasks: list[LearningTask] = []
    judged: list[Tensor] = []
    module = importlib.import_module("quant_sweep.recovery.recover")
    damages = module.damages

    def learn(self, original, quantized, task):  # noqa: ARG001
        tasks.append(task)
        return quantized

    monkeypatch.setattr(Distill, "learn", learn)
    monkeypatch.setattr(module, "damages", lambda *given: judged.append(torch.cat(given[2])) or damages(*given))
    prepared = prepare(read_point(config("recovery=distill", f"recovery.distill.images={images}", "bits=2")))
    quantize_model(prepared)
    (task,) = tasks
    train, calibration = prepared.data.train.images, prepared.images.indices.tolist()
    learned = task.inputs.indices.tolist()
    (judges,) = judged
    assert len(judges) == 512
    assert len(learned) == len(set(learned)) == min(images, len(train) - 512)
    own, seen = set(calibration[7::8]), set(calibration) - set(calibration[7::8])
    assert seen <= set(learned)
    assert not own & set(learned)
    everything = prepared.data.normalize(train)
    same = (judges.flatten(1)[:, None] == everything.flatten(1)).all(2)  # (512, training images)
    assert not bool(same[:, task.inputs.indices].any())
    assert set(same[:4].nonzero()[:, 1].tolist()) == own
    some = torch.tensor([3, 49])
    assert torch.equal(task.inputs[some], everything[task.inputs.indices[some]])


def test_a_learning_that_was_killed_goes_on_in_another_process(
    config: Config, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(recover_model, "_SECONDS_BETWEEN_STATES", 0.0)

    def made(cache: str) -> OnGrids:
        cfg = config("recovery=distill", "recovery.distill.steps=6", f"cache_dir={tmp_path / cache}", "bits=3")
        quantized = quantize_model(prepare(read_point(cfg)))
        return OnGrids(quantized.graph, quantized.qparams)

    whole, write, written = made("whole"), recover_model.write_tensors, []

    def killed(path: Path, *content: object) -> None:
        write(path, *content)
        written.append(path)
        if len(written) == 4:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(recover_model, "write_tensors", killed)
        with pytest.raises(KeyboardInterrupt):
            made("parts")
    assert written[0].exists()
    with caplog.at_level("INFO"):
        assert same(made("parts"), whole)
    assert "goes on after step 4 of 6" in caplog.text
    assert not written[0].exists()


def test_a_damaged_state_is_said_and_not_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    unfinished = recover_model._StateFile(tmp_path / "state", 0.0)
    assert unfinished.read() is None
    unfinished.write(lambda: {"done": torch.tensor(3)})
    found = unfinished.read()
    assert found is not None
    assert int(found["done"]) == 3
    assert not caplog.records
    content = bytearray(unfinished.path.read_bytes())
    content[-1] ^= 1
    unfinished.path.write_bytes(bytes(content))
    with caplog.at_level("WARNING"):
        assert unfinished.read() is None
    assert "is damaged; the recovery begins anew" in caplog.text


def test_a_full_disk_costs_the_state_and_no_more(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(recover_model, "write_tensors", full)
    with caplog.at_level("WARNING"):
        recover_model._StateFile(tmp_path / "state", 0.0).write(dict)
    assert "No space left on device" in caplog.text


def test_a_run_records_what_each_recovery_did(config: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    def worse(self, original, quantized, batches):  # noqa: ARG001
        constants = {name: value * 0 for name, value in quantized.graph.graph.constants.items()}
        return OnGrids(
            replace(quantized.graph, graph=replace(quantized.graph.graph, constants=constants)), quantized.qparams
        )

    monkeypatch.setattr(Distill, "learn", worse)
    cfg = config("recovery=[bias,distill]", "bits=3", "tracking.experiment=records")
    run_point(cfg, sweep=None)
    runs = open_tracker(cfg).runs()
    (row,) = runs[runs["kind"] == "point"].to_dict("records")
    assert row["params.recovery"] == "bias+distill"
    assert row["params.recovery.distill.codes"] == "False"
    assert row["metrics.recovery/bias/damage_after"] < row["metrics.recovery/bias/damage_before"]
    assert row["metrics.recovery_seconds"] >= row["metrics.recovery/bias/seconds"] > 0
    assert row["tags.recovery_left_out"].startswith("distill: damage ")
    assert "bias" not in row["tags.recovery_left_out"]


def test_no_recovery_leaves_the_network_as_it_was(config: Config) -> None:
    prepared = prepare(read_point(config()))
    quantized = quantize_model(prepared)
    assert quantized.graph is prepared.graph
    assert quantized.recovery == {}
    assert recover_model.recover_model(prepared, OnGrids(prepared.graph, {})).quantized.graph is prepared.graph


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["recovery=bias", "calibration.images=7"], r"^calibration\.images=7: recovery .*allowed: 8 or more"),
        (["recovery=reconstruct", "recovery.reconstruct.rows=0"], r"^recovery\.reconstruct\.rows=0: allowed are whole"),
        (["recovery=distill", "recovery.distill.codes=off"], r"^recovery\.distill\.codes='off': allowed are true"),
        (
            ["recovery=bias", "engine=builtin", "observer=hist", "bits=8"],
            r"^recovery=bias: engine=builtin .*recovery=none",
        ),
        (["calibration.balanced=off"], r"^calibration\.balanced='off': allowed are true and false"),
    ],
)
def test_refuses_before_any_work(config: Config, overrides: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message) as refused:
        read_point(config(*overrides))
    assert "\n" not in str(refused.value)
