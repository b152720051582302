"""Every yaml of every group composes and builds; the groups and the code name the same things."""

import zipfile
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from configured import composed, concrete_classes

from quant_sweep import engines, observers, recovery
from quant_sweep.cli import schema, sweep_schema
from quant_sweep.cli.hydra_app import config_folder
from quant_sweep.engines import Auto, Engine, Flow
from quant_sweep.observers import FakeHist, Hist, Observer
from quant_sweep.quantization.scheme import AFFINE
from quant_sweep.recovery import Recovery
from quant_sweep.sweep.build import build, plain
from quant_sweep.sweep.point import read_point
from quant_sweep.train import TrainConfig

CONF = config_folder()
REPOSITORY = Path(__file__).parents[1]
SWEEP_GROUPS = [
    "data",
    "model",
    "observer",
    "weight_observer",
    "scheme",
    "engine",
    "calibration",
    "metric",
    "recovery",
    "tracking",
    "experiment",
    "row",
]
TRAIN_GROUPS = ["data", "model", "train"]
# Whose choices go with any of the other groups.
FREE_GROUPS = [
    "data",
    "model",
    "observer",
    "weight_observer",
    "scheme",
    "metric",
    "tracking",
]


def names(group: str) -> set[str]:
    return {path.stem for path in (CONF / group).glob("*.yaml")}


def choices(groups: list[str]) -> list[str]:
    return [f"{group}={name}" for group in groups for name in sorted(names(group))]


def together(groups: list[str]) -> list[list[str]]:
    """Every choice of every group, in as few configs as the largest group has choices."""
    columns = [choices([group]) for group in groups]
    return [[column[row % len(column)] for column in columns] for row in range(max(map(len, columns)))]


def node(group: str, name: str) -> dict[str, Any]:
    return yaml.safe_load((CONF / group / f"{name}.yaml").read_text())


def test_every_group_is_tested_here() -> None:
    groups = {path.name for path in CONF.iterdir() if path.is_dir()}
    assert groups == {*SWEEP_GROUPS, *TRAIN_GROUPS}


@pytest.mark.parametrize(
    "chosen",
    [*together(FREE_GROUPS), *([choice] for choice in choices([g for g in SWEEP_GROUPS if g not in FREE_GROUPS]))],
    ids=" ".join,
)
def test_sweep_config_composes_and_makes_a_point(chosen: list[str]) -> None:
    more = ["observer=hist"] if chosen == ["engine=builtin"] else []
    point = read_point(composed(*chosen, *more, *(typed for choice in chosen for typed in _factory_of(choice))))
    for group, name in (choice.split("=") for choice in chosen):
        if group == "recovery":
            assert point.params()["recovery"] == name
        elif group not in ("experiment", "row"):
            # The name of a torchvision model is that of its architecture.
            assert point.settings[group].get("name", name) in (name, point.settings[group].get("arch"))


def _factory_of(choice: str) -> list[str]:
    """What has to be typed with a choice of one's own."""
    group, _, name = choice.partition("=")
    return [f"{group}.factory=m:f"] if name == "custom" else []


def _needed_by(choice: str) -> list[str]:
    """What has to be typed with a choice: a factory, or the recipe of a data set that brings none of its own."""
    group, _, name = choice.partition("=")
    recipe = ["train=default"] if group == "data" and name not in names("train") else []
    return [*_factory_of(choice), *recipe]


@pytest.mark.parametrize("chosen", [*together(["data", "model"]), *together(["train"])], ids=" ".join)
def test_train_config_composes_and_makes_a_recipe(chosen: list[str]) -> None:
    needed = [typed for choice in chosen for typed in _needed_by(choice)]
    settings = plain(composed(*chosen, *needed, config="train_config"))
    assert TrainConfig(**settings["train"]).epochs > 0


@pytest.mark.parametrize("chosen", together(["data", "model", "observer", "scheme", "calibration"]), ids=" ".join)
def test_sensitivity_config_composes_and_makes_a_point(chosen: list[str]) -> None:
    more = (typed for choice in chosen for typed in _factory_of(choice))
    point = read_point(composed(*chosen, *more, config="sensitivity_config"))
    assert isinstance(point.engine, engines.Simulate)
    assert (point.settings["images"], point.widths.weights) == (1000, 4)


def test_sensitivity_config_has_every_key_of_a_sweep() -> None:
    sweep, own = (set(composed(config=config)) for config in ("config", "sensitivity_config"))
    assert own == {field.name for field in fields(sweep_schema.Sensitivity)} == sweep | {"images"}


def test_report_config_composes() -> None:
    assert plain(composed(config="report_config"))["tracking"]["experiment"] == "quant_sweep"


@pytest.mark.parametrize(
    ("group", "classes"),
    [
        ("observer", concrete_classes(observers, Observer)),
        ("engine", {Auto, *concrete_classes(engines, Engine), *concrete_classes(engines, Flow)}),
    ],
    ids=["observer", "engine"],
)
def test_every_class_has_a_yaml_and_every_yaml_a_class(group: str, classes: set[type]) -> None:
    built = [type(build(group, node(group, name))) for name in names(group)]
    assert set(built) == classes
    assert len(set(built)) == len(built)


def test_every_recovery_has_a_yaml_of_its_name_and_every_yaml_a_recovery() -> None:
    classes = set()
    for name in names("recovery") - {"none"}:
        config = composed(f"recovery={name}")
        (method,) = read_point(config).recoveries.values()
        classes.add(type(method))
        assert list(config.recovery) == [name]
        assert method == type(method)(), "a person who leaves the yaml out gets the same"
    assert classes == concrete_classes(recovery, Recovery)
    assert read_point(composed("recovery=none")).recoveries == {}


def test_recoveries_are_combined_in_the_order_in_which_they_are_named() -> None:
    for names in (["reconstruct", "bias"], ["bias", "reconstruct"]):
        point = read_point(composed(f"recovery=[{','.join(names)}]"))
        assert list(point.recoveries) == names
        assert point.params()["recovery"] == "+".join(names)


@pytest.mark.parametrize("group", ["observer", "weight_observer", "engine", "scheme", "calibration", "data", "model"])
def test_names_are_file_names(group: str) -> None:
    for name in names(group) - {"torchvision"}:
        assert node(group, name)["name"] == name


def test_weight_observers_are_the_observers() -> None:
    assert names("weight_observer") == names("observer")
    for name in names("observer"):
        assert node("weight_observer", name) == node("observer", name)


@pytest.mark.parametrize(
    ("config", "types"),
    [("config", sweep_schema.Sweep), ("train_config", schema.Train), ("report_config", schema.Report)],
)
def test_schema_and_config_have_the_same_keys(config: str, types: type) -> None:
    written = yaml.safe_load((CONF / f"{config}.yaml").read_text())
    groups = {next(iter(entry)) for entry in written.pop("defaults") if isinstance(entry, dict)}
    keys = {
        key
        for key in groups | set(written)
        if key not in ("hydra", "experiment", "row") and not key.startswith("override ")
    }
    assert keys == {field.name for field in fields(types)}
    tracking = yaml.safe_load((CONF / "tracking" / "mlflow.yaml").read_text())
    assert set(tracking) == {field.name for field in fields(schema.Tracking)}


def test_explain_config_takes_all_of_a_run() -> None:
    run, explained = plain(composed()), plain(composed("layer=conv1", config="explain_config"))
    assert explained == {**run, "layer": "conv1", "images": 128}
    written = yaml.safe_load((CONF / "explain_config.yaml").read_text())
    own = {field.name for field in fields(sweep_schema.Explain)} - {field.name for field in fields(sweep_schema.Sweep)}
    assert set(written) - {"defaults", "hydra"} == own


def test_affine_is_affine() -> None:
    assert read_point(composed("scheme=affine")).scheme == AFFINE


STUDY_ROWS = {"builtin_8": ("builtin", 8), "hist_8": ("hist", 8), "fake_hist_8": ("fake_hist", 8)}
STUDY_ROWS |= {"hist_4": ("hist", 4), "fake_hist_4": ("fake_hist", 4), "fake_hist_3": ("fake_hist", 3)}


@pytest.mark.parametrize("experiment", ["original", "original_text"])
def test_rows_of_the_study(experiment: str) -> None:
    """Each experiment sweeps the rows that the study printed, in its order, and follows one recipe in all of them."""
    rows = node("experiment", experiment)["hydra"]["sweeper"]["params"]["row"].split(",")
    assert [row.replace("as_coded_", "") for row in rows] == list(STUDY_ROWS)
    coded = experiment == "original"
    for row in rows:
        point = read_point(composed(f"experiment={experiment}", f"row={row}"))
        way, bits = STUDY_ROWS[row.replace("as_coded_", "")]
        assert (point.widths.weights, point.widths.activations) == (bits, bits)
        calibration = point.settings["calibration"]
        assert (calibration["images"], calibration["batch_size"], calibration["augment"]) == (51 * 128, 128, True)
        if way == "builtin":
            assert (point.settings["engine"]["name"], point.settings["observer"]["name"]) == ("builtin", "hist")
            continue
        expected = {"fake_hist": FakeHist(99.99, 0.1), "hist": Hist(None, True) if coded else Hist()}
        assert point.observer == expected[way]
        assert (point.fusion.value, point.sequential, point.update_batch_norm) == ("none", coded, coded)
        activation, weight = point.scheme.activation(bits), point.scheme.weight(bits)
        assert weight.channel_axis is None
        assert (weight.qmin, weight.qmax) == (-weight.qmax, 2 ** (bits - 1) - 1)
        assert (activation.qmin, activation.qmax) == ((weight.qmin, weight.qmax) if coded else (0, 2**bits - 1))


def test_defaults_in_yaml_are_the_defaults_in_code() -> None:
    """A person who leaves the yaml out, in a library call, gets the same observer."""
    for name in names("observer"):
        written = node("observer", name)
        assert build("observer", written) == build("observer", {"_target_": written["_target_"]})


@pytest.mark.slow
def test_wheel_holds_the_configs(tmp_path: Path) -> None:
    from hatchling.builders.wheel import WheelBuilder

    (wheel,) = WheelBuilder(str(REPOSITORY)).build(directory=str(tmp_path), versions=["standard"])
    inside = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"quant_sweep/conf/{path.relative_to(CONF).as_posix()}" for path in CONF.rglob("*.yaml")}
    wanted |= {f"quant_sweep/conf/weight_observer/{name}.yaml" for name in names("observer")}  # rglob follows no link
    assert "quant_sweep/conf/config.yaml" in wanted
    assert wanted <= inside
    assert {"quant_sweep/cli/sweep.py", "quant_sweep/sweep/run.py", "quant_sweep/report/document.html"} <= inside
    assert "quant_sweep/py.typed" in inside
    assert any(name.endswith("/licenses/LICENSE") for name in inside)
