"""What a run works with: made from the point alone, shared by the points of a process, and named by its contents."""

from collections.abc import Callable

import pytest
import torch
from configured import composed

from quant_sweep.engines import Auto
from quant_sweep.errors import InputError
from quant_sweep.models import resnet20, write_checkpoint
from quant_sweep.sweep.point import read_point
from quant_sweep.sweep.prepare import Prepared, prepare

Prepare = Callable[..., Prepared]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Prepare:
    folder = tmp_path_factory.mktemp("prepare")
    torch.manual_seed(0)
    write_checkpoint(folder / "weights", resnet20(num_classes=10, in_channels=1).state_dict(), {})
    common = (f"outputs_dir={folder}", f"model.checkpoint={folder}/weights", "calibration.images=64", "device=cpu")
    return lambda *overrides: prepare(read_point(composed(*common, *overrides)))


def test_every_quantizer_has_its_grid(prepared: Prepare) -> None:
    made = prepared("bits=5", "overrides={input: 8}")
    assert set(made.specs) == set(made.graph.names)
    assert (made.specs["input"].bits, made.specs["conv1.weight"].bits) == (8, 5)


def test_the_engine_is_settled(prepared: Prepare) -> None:
    made = prepared("engine=auto", "bits=9")
    assert not isinstance(made.point.engine, Auto)
    assert made.point.tags()["engine_chosen"] == "simulate"


def test_points_share_what_they_have_in_common(prepared: Prepare) -> None:
    one, other = prepared("bits=8"), prepared("bits=3", "observer=minmax")
    for shared in ("data", "model", "graph", "images"):
        assert getattr(one, shared) is getattr(other, shared)
    unfused = prepared("fusion=none")
    assert unfused.model is one.model
    assert unfused.graph is not one.graph


def test_contents_hold_digests_instead_of_what_they_stand_for(prepared: Prepare) -> None:
    made = prepared()
    contents = made.contents()
    assert contents["model"] == made.model.digest
    assert contents["data"] == made.data.fingerprint
    assert contents["images"] == made.images.digest
    assert contents["seed"] == 0
    assert not {"tracking", "outputs_dir", "batch_size", "force"} & set(contents)


def test_too_many_images_are_refused(prepared: Prepare) -> None:
    with pytest.raises(InputError, match=r"calibration\.images=5000"):
        prepared("calibration.images=5000")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["engine=int8", "bits=9"], r"^engine=int8: input has 9 bits, allowed are 2 to 8"),
        (["engine=int8", "overrides={input: 16}"], r"^engine=int8: input has 16 bits"),
        (["engine=integer", "bits=9"], r"^engine=integer: input has 9 bits"),
        (["engine=integer", "fusion=none"], r"^engine=integer: .* is computed in float; use fusion=bn"),
        (["scheme.same_grid_around_relu=true"], r"^scheme\.same_grid_around_relu=true: with fusion=conv_bn_relu"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_computed_is_refused_before_any_calibration(
    prepared: Prepare, overrides: list[str], line: str
) -> None:
    with pytest.raises(InputError, match=line):
        prepared(*overrides)


@pytest.mark.parametrize(
    "overrides", [["engine=integer"], ["engine=integer", "fusion=bn"], ["engine=integer", "bits=2"]]
)
def test_what_can_be_computed_is_not(prepared: Prepare, overrides: list[str]) -> None:
    prepared(*overrides)
