"""What Hydra keeps of the jobs of a multirun."""

import weakref
from pathlib import Path
from unittest import mock

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.utils import JobReturn, JobStatus
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from quant_sweep.cli.hydra_app import release_memory, run_hydra
from quant_sweep.cli.sweep_schema import Bits, Sweep


class Tensor:
    """Stands for something large."""


def test_a_job_that_failed_keeps_no_variables() -> None:
    kept: list[weakref.ref[Tensor]] = []

    def calibrate() -> None:
        calibration = Tensor()
        kept.append(weakref.ref(calibration))
        raise ValueError("inner")

    def work() -> None:
        model = Tensor()
        kept.append(weakref.ref(model))
        try:
            calibrate()
        except ValueError as error:
            raise RuntimeError("outer") from error

    made = JobReturn()
    made.cfg = made.hydra_cfg = OmegaConf.create({"bits": 4})
    made.status = JobStatus.FAILED
    try:
        work()
    except RuntimeError as error:
        made._return_value = error
    assert all(tensor() is not None for tensor in kept)
    release_memory(made)
    assert [tensor() for tensor in kept] == [None, None]
    assert made.cfg is None
    assert made.hydra_cfg is None
    assert made._return_value.__traceback__ is not None, "what is printed of it"


def test_each_job_is_composed_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """And none sees what another did to its config."""
    composed: list[str] = []
    compose = ConfigLoaderImpl.load_configuration

    def counted(
        loader: ConfigLoaderImpl, config_name: str, overrides: list[str], run_mode: RunMode, **named: bool
    ) -> DictConfig:
        if run_mode == RunMode.RUN:
            composed.append(str(overrides))
        return compose(loader, config_name, overrides, run_mode, **named)

    seen: list[tuple[int, int]] = []

    def job(cfg: DictConfig) -> None:
        seen.append((cfg.bits.value, cfg.weight_bits.value))
        cfg.weight_bits = Bits.bits_2

    def check(cfg: DictConfig, _: bool) -> None:
        cfg.weight_bits = Bits.bits_2

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["quant-sweep", "-m", "bits=8,4", "~hydra.callbacks.remember_multirun"])
    with mock.patch.object(ConfigLoaderImpl, "load_configuration", counted):
        run_hydra("config", job, Sweep, check=check)
    assert seen == [(8, 8), (4, 4)]
    assert len(composed) == len(set(composed)) == 2
