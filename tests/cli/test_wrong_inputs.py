"""Wrong inputs as a table: what is typed, the key that the line names, and words of it; nothing is read or begun."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from wrong_inputs import checked, config_of, told

from quant_sweep.cli.train import check_fits, check_recipe
from quant_sweep.sweep.build import load_data, plain

NO_KEY, GIVEN = "no such key", "must be given"
WHOLE, FLAG, TEXT = "whole number", "true and false", "text"
FAKE, HIST, MOVING = "observer=fake_hist", "observer=hist", "observer=moving_average"
CLASS = "a config builds what its group has"
FOREIGN = [
    *(
        "os.system",
        "builtins.eval",
        "subprocess.Popen",
        "quant_sweep.models.from_callable",
        "quant_sweep.models.resnet20",
    ),
    *(
        "quant_sweep.observers.MSE.range",
        "quant_sweep.engines.Int8x",
        "quant_sweep.sweep.build.importlib.import_module",
    ),
    *("quant_sweep.data.image_folder.os.walk", "torch.load", "5", "null", "[os.system]", "{a: b}"),
]
SEEDS = ["99999999999999999999999", "-1", "1.5", "x", "null", "true", "[1]", "4294967296"]
SIZES = ["0", "-1", "2.5", "x", "null", "true", "[8]", "1e3", "99999999999999"]


def rows(key: str, values: Sequence[str], words: str, *more: str) -> list[tuple[list[str], str, str]]:
    """`key` set to each of `values`, after `more`; the line begins with the key."""
    return [([*more, f"{key}={value}"], key, words) for value in values]


# Group choices and values that are typed together -> the beginning of the line -> words in it.
ROWS: list[tuple[list[str], str, str]] = [
    *rows("seed", SEEDS, WHOLE),
    *rows("batch_size", SIZES, WHOLE),
    *rows("calibration.batch_size", SIZES, WHOLE),
    *rows("calibration.images", ["[10]", "{a: 1}", "true"], WHOLE),
    *rows("force", ["2", "maybe", "null", "off", "[true]", "1"], FLAG),
    *rows("calibration.augment", ["2", "off", "null", "x"], FLAG),
    *(
        (
            ["calibration=sequential", "fusion=none", f"calibration.update_batch_norm={value}"],
            "calibration.update",
            FLAG,
        )
        for value in ["1", "off", "null"]
    ),
    *rows("bits", ["0", "1", "17", "-4", "8.5", "x", "true", "[8]"], "2 to 16"),
    *rows("bits", ["-1", "33", "null"], "2 to 16"),
    *rows("weight_bits", ["0", "17", "x", "2.5", "-1", "33", "null", "[8]", "true"], "2 to 16"),
    *rows("activation_bits", ["0", "1", "17", "x", "2.5", "-1", "33", "null", "[8]", "true"], "2 to 16"),
    *rows("fusion", ["x", "all", "2"], "conv_bn_relu"),
    (["fusion=[bn]"], "fusion=['bn']", ""),
    *rows("device", ["gpu", "cuda:0", "7", "[cpu]"], "cpu"),
    *(
        ([f"overrides={value}"], "overrides", "")
        for value in ["5", "x", "[1]", "{input: 1}", "{input: 33}", "{input: x}"]
    ),
    *(([f"overrides={{input: {value}}}"], "overrides.input=", "2 to 16") for value in ["null", "true", "2.5", "[8]"]),
    # what a group may build
    *(
        ([f"{group}._target_={target}"], f"{group}._target_=", CLASS)
        for group in ("observer", "engine")
        for target in FOREIGN
    ),
    *(([f"scheme._target_={target}"], "scheme._target_=", CLASS) for target in FOREIGN[:4]),
    *(([f"data._target_={target}"], "data._target_=", CLASS) for target in FOREIGN[:6]),
    *(([f"model._target_={target}"], "model._target_=", CLASS) for target in FOREIGN[:3]),
    (["engine._target_=quant_sweep.observers.MSE"], "engine._target_=", "quant_sweep.engines.Int8"),
    (["observer._target_=quant_sweep.engines.Int8"], "observer._target_=", "quant_sweep.observers.MSE"),
    (["+calibration._target_=os.system"], "calibration._target_=", CLASS),
    (
        ["observer._target_=quant_sweep.models.from_callable", "+observer.factory=os:system"],
        "observer._target_=",
        CLASS,
    ),
    (["observer={_target_: os.system, command: ls}"], "observer.command", NO_KEY),
    (["+observer.x={_target_: os.system}"], "observer.x=", "no such setting"),
    (["+observer._partial_=true"], "observer._partial_=", "no such setting"),
    (["+observer._args_=[1]"], "observer._args_=", "no such setting"),
    (["+engine._recursive_=true"], "engine._recursive_=", "no such setting"),
    # labels say what runs
    *rows("observer.name", ["hist", "foo", "null", "5", "../x", "MSE"], "mse"),
    *rows("engine.name", ["int8", "simulate", "foo"], "auto"),
    *rows("scheme.name", ["symmetric", "foo", "null"], ""),
    *rows("calibration.name", ["foo", "null", "5"], "one_pass"),
    *rows("model.name", ["resnet50", "../../x", "null", "foo"], "resnet20"),
    *rows("data.name", ["cifar10", "../x", "null"], "digits"),
    *(
        (["data=imagefolder", f"data.name={value}"], "data.name=", "letters")
        for value in ["../x", "a/b", "'a\tb'", "null", ".hidden", "'<b>'", "'a|b'", "''", "'=1+1'", "[a]"]
    ),
    (["model=torchvision", "model.name=mine"], "model.name=", "mobilenet_v2"),
    # no setting without effect
    (["+x=1"], "x: ", NO_KEY),
    (["+tracking.x=1"], "tracking", "x"),
    (["+scheme.x=1"], "scheme.x=", "no such setting"),
    (["+data.resize=4"], "data.resize=", "no such setting"),
    (["+model.factory=os:system"], "model.factory=", "no such setting"),
    (["+observer.percentile=99"], "observer.percentile=", "it has none"),
    (["calibration.update_batch_norm=true"], "calibration.update_batch_norm=true", "calibration=sequential"),
    (["engine=builtin", HIST, "observer.dst_bins=2"], "observer.dst_bins=2", "own flow"),
    (["engine=builtin", MOVING, "observer.averaging_constant=0.5"], "observer.averaging_constant=0.5", "own flow"),
    (["engine=builtin", HIST, "bits=4"], "bits=4", "own flow"),
    (["engine=builtin", HIST, "scheme.weight_narrow_range=false"], "scheme=affine", "own flow"),
    (["engine=builtin", HIST, "weight_observer=mse"], "weight_observer=mse", "own flow"),
    (["engine=builtin", HIST, "overrides={input: 8}"], "overrides=", "own flow"),
    (["engine=builtin", HIST, "fusion=none"], "fusion=none", "own flow"),
    (["engine=builtin", FAKE], "observer=fake_hist", "torch.ao"),
    ([HIST, "observer.dst_bins=64", "observer.merge_with_minmax=true"], "observer.dst_bins=64", "whatever is searched"),
    (["weight_observer=fake_hist", "weight_observer.momentum=0.5"], "weight_observer.momentum=0.5", "no effect"),
    (
        ["weight_observer=moving_average", "weight_observer.averaging_constant=1"],
        "weight_observer.averaging",
        "no effect",
    ),
    ([FAKE, "observer.momentum=0.5", "calibration.images=64"], "observer.momentum=0.5", "one batch"),
    ([MOVING, "observer.averaging_constant=0.5", "calibration.images=128"], "observer.averaging", "one batch"),
    (
        ["scheme.same_grid_around_relu=true", "calibration=sequential", "fusion=bn"],
        "scheme.same_grid_around_relu=true",
        "one_pass",
    ),
    # values of groups
    *(
        ([FAKE, f"observer.percentile={value}"], "observer.percentile=", "number")
        for value in ["null", "x", "[1]", "true"]
    ),
    *(
        ([FAKE, f"observer.percentile={value}"], "observer.percentile=", "above 50")
        for value in ["0", "50", "101", "nan"]
    ),
    *(
        ([FAKE, f"observer.momentum={value}"], "observer.momentum=", "")
        for value in ["0", "-1", "2", "nan", "null", "x"]
    ),
    *(
        ([MOVING, f"observer.averaging_constant={value}"], "observer.averaging", "")
        for value in ["0", "2", "null", "x"]
    ),
    *(
        ([HIST, f"observer.dst_bins={value}"], "observer.dst_bins=", WHOLE)
        for value in ["1", "0", "2.5", "true", "x", "[2]"]
    ),
    *rows("observer.merge_with_minmax", ["1", "off", "null"], FLAG, HIST),
    *(
        ([f"scheme.weight_per_channel={value}"], "scheme.weight_per_channel=", FLAG)
        for value in ["1", "off", "null", "[true]"]
    ),
    *rows("scheme.activation_symmetric", ["0", "yes"], FLAG),
    # nothing taken away
    *(([f"~{key}"], key, GIVEN) for key in ["seed", "batch_size", "force", "fusion", "device", "engine", "scheme"]),
    (["~outputs_dir"], "cache_dir", "'outputs_dir' not found"),
    (["~observer"], "observer", GIVEN),
    (["~observer.name"], "observer.name", GIVEN),
    ([FAKE, "~observer.percentile"], "observer.percentile", GIVEN),
    (["~calibration.images"], "calibration.images", GIVEN),
    (["~data.size"], "data.size", GIVEN),
    (["~tracking.uri"], "tracking.uri", "does not support deletion"),
    # places
    *(
        ([f"model.checkpoint={value}"], "model.checkpoint=", "path of a file")
        for value in ["5", "[a]", "true", "''", "{a: b}"]
    ),
    *rows("outputs_dir", ["''", "null"], ""),
    *rows("cache_dir", ["''", "null"], ""),
    *rows("data.cache_dir", ["5", "null", "[a]"], "path of a folder"),
    *rows("model.checkpoint_key", ["5", "[a]", "true"], "name of a set"),
    # the store
    (["tracking.uri=http://127.0.0.1:x"], "tracking.uri=", "a number for PORT"),
    (["tracking.uri=http://127.0.0.1:99999"], "tracking.uri=", "a number for PORT"),
    *rows("tracking.uri", ["''", "null"], ""),
    *rows("tracking.experiment", ["''", "null", "'a\tb'", "a" * 251], ""),
    # environment variables
    *(
        ([f"{key}=${{oc.env:HOME}}"], f"{key}=", "environment variables may set")
        for key in ["model.name", "tracking.experiment", "observer.name", "engine.name"]
    ),
    (["data=imagefolder", "data.name=${oc.env:HOME}"], "data.name=", "environment variables may set"),
    (["data=imagefolder", "data.root=${oc.env:HOME}", "data.name=${data.root}"], "data.name=", "environment"),
    (["model=custom", "model.factory=${oc.env:HOME}"], "model.factory=", "environment variables may set"),
    (["model=custom", "model.factory=m:f", "model.kwargs={a: '${oc.env:HOME}'}"], "model.kwargs.a=", "environment"),
    (["overrides={input: '${oc.env:HOME}'}"], "overrides.input=", "environment variables may set"),
    (["model=custom"], "model.factory=???", GIVEN),
    (["model.name=${nonsense}"], "model.name", "nonsense"),
]
TRAINING: list[tuple[list[str], str, str]] = [
    *rows("train.epochs", ["0", "-1", "2.5", "x", "null", "true"], WHOLE),
    *rows("train.seed", SEEDS, WHOLE),
    *rows("train.lr", ["0", "-1", "nan", "inf", "x", "null", "true"], "above 0"),
    *rows("train.flip", ["1", "off", "null"], "true or false"),
    *rows("train.schedule", ["x", "null", "5"], "one_cycle"),
    (["+train.x=1"], "train.x=", "no such setting"),
    (["~train.epochs"], "train.epochs", GIVEN),
    (["~train"], "train", GIVEN),
    (["train=5x"], "train=5x", "there is none"),
    (["~model"], "model", GIVEN),
    (["+x=1"], "x: ", NO_KEY),
    (["bits=4"], "bits", NO_KEY),
    (["model.name=../x"], "model.name=", "resnet20"),
    (["data._target_=os.system"], "data._target_=", CLASS),
    (["model.name=${oc.env:HOME}"], "model.name=", "environment variables may set"),
]
REPORT: list[tuple[list[str], str, str]] = [
    (["tracking.uri=http://h:x"], "tracking.uri=", "a number for PORT"),
    (["tracking.experiment=''"], "tracking.experiment=", TEXT),
    (["+x=1"], "x: ", NO_KEY),
    (["bits=4"], "bits", NO_KEY),
]


@pytest.mark.parametrize(
    ("arguments", "key", "words", "config"),
    [
        *((*row, "config") for row in ROWS),
        *((*row, "train_config") for row in TRAINING),
        *((*row, "report_config") for row in REPORT),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_line(arguments: list[str], key: str, words: str, config: str) -> None:
    line = told(lambda: checked(config_of(*arguments, config=config), config), *arguments)
    assert line.startswith(key)
    assert words in line


@pytest.mark.parametrize("override", ["train.crop_padding=8", "train.cutout=8", "train.crop_padding=1000"])
def test_a_recipe_that_leaves_nothing_of_an_image(tmp_path: Path, override: str) -> None:
    settings = plain(config_of(override, f"outputs_dir={tmp_path}", config="train_config"))
    data = load_data(settings["data"])
    line = told(lambda: check_fits(check_recipe(settings), data))
    assert line == f"{override}: the images have 8 pixels; allowed are 0 to 7"


def test_the_table_is_long() -> None:
    assert len(ROWS) + len(TRAINING) + len(REPORT) >= 250
