"""Environment variables: they reach places and numbers, and no record."""

from __future__ import annotations

import pytest
from configured import composed
from omegaconf import OmegaConf

from quant_sweep.errors import InputError
from quant_sweep.sweep.environment import as_written, from_environment
from quant_sweep.sweep.point import read_point


@pytest.fixture(autouse=True)
def secret(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("SECRET", "s3cret")
    monkeypatch.setenv("NUMBER", "3")
    return "s3cret"


def test_places_are_recorded_as_they_are_typed(secret: str) -> None:
    point = read_point(composed("outputs_dir=/tmp/${oc.env:SECRET}", "tracking.uri=http://${oc.env:SECRET}@host"))
    assert point.settings["outputs_dir"] == f"/tmp/{secret}"
    assert point.settings["model"]["checkpoint"].startswith(f"/tmp/{secret}/train/")
    assert point.params()["model.checkpoint"] == "${outputs_dir}/train/${model.name}-${data.name}/best.safetensors"
    assert point.shown["tracking"]["uri"] == "http://${oc.env:SECRET}@host"
    recorded = f"{point.params()} {point.tags()} {point} {OmegaConf.to_yaml(dict(point.shown))}"
    assert secret not in recorded


def test_numbers_may_come_from_anywhere() -> None:
    cfg = composed()
    cfg.bits = cfg.seed = "${oc.decode:${oc.env:NUMBER}}"
    point = read_point(cfg)
    assert (point.widths.weights, point.settings["seed"], point.params()["seed"]) == (3, 3, 3)


def test_a_chain_of_references_is_followed() -> None:
    cfg = OmegaConf.create(
        {"outputs_dir": "${x.y}", "x": {"y": 5, "z": "plain ${x.y}"}, "cache_dir": "${outputs_dir}/c"}
    )
    assert from_environment(cfg) == {}
    cfg.x.y = "${oc.env:SECRET}"
    with pytest.raises(InputError, match=r"^x\.y=\$\{oc\.env:SECRET\}: environment variables may set numbers and"):
        from_environment(cfg)
    assert as_written({"a": {"b": 1}, "c": 2}, {"a.b": "${x}"}) == {"a": {"b": "${x}"}, "c": 2}
