"""Configs from elsewhere: what Hydra itself would build of them, each refused before anything runs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from omegaconf import OmegaConf
from terminal import Workspace
from wrong_inputs import told

from quant_sweep.cli.foreign import check_hydra
from quant_sweep.cli.jobs import sweep_name

BASIC = {
    "callbacks": {"remember_multirun": {"_target_": "quant_sweep.cli.sweep.RememberMultirun"}},
    "sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper", "params": {"bits": "8,4"}},
    "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
    "job_logging": {
        "version": 1,
        "formatters": {"simple": {"format": "%(message)s"}},
        "handlers": {
            "console": {"class": "logging.StreamHandler", "formatter": "simple", "stream": "ext://sys.stdout"},
            "file": {"class": "logging.FileHandler", "filename": "${hydra.runtime.output_dir}/job.log"},
        },
        "root": {"handlers": ["console", "file"]},
    },
    "hydra_logging": {"version": 1, "root": None},
    "job": {"env_set": {"OMP_NUM_THREADS": "1"}},
    "overrides": {"hydra": []},
}
SLURM = "hydra_plugins.hydra_submitit_launcher.submitit_launcher.SlurmLauncher"
HOSTILE = ["os.system", "subprocess.Popen", "quant_sweep.models.from_callable", "${oc.env:HOME}", "x", "5"]
CANARIES: list[tuple[str, object]] = [
    *((f"{place}._target_", target) for place in ("callbacks.x", "sweeper", "launcher") for target in HOSTILE),
    ("callbacks.x", "os.system"),
    ("callbacks", "${x}"),
    ("callbacks.remember_multirun.x", {"_target_": "os.system"}),
    ("launcher.x", {"_target_": "os.system"}),
    ("sweeper.params.bits", {"_target_": "os.system"}),
    ("sweeper._target_", "hydra_plugins.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper"),
    ("launcher", {"_target_": SLURM, "setup": ["touch executed"]}),
    ("launcher", {"_target_": SLURM, "srun_args": ["--x"]}),
    ("launcher", {"_target_": SLURM, "ray": {"init": {"runtime_env": {"pip": ["x"]}}}}),
    ("job_logging", "${x}"),
    ("job_logging.formatters.simple.()", "os.system"),
    ("job_logging.formatters.simple.class", "subprocess.Popen"),
    ("job_logging.handlers.console.()", "os.system"),
    ("job_logging.handlers.console.class", "logging.handlers.SMTPHandler"),
    ("job_logging.handlers.console.class", "logging.handlers.HTTPHandler"),
    ("job_logging.handlers.console.class", "${x}"),
    ("job_logging.handlers.console.stream", "ext://os.environ"),
    ("job_logging.handlers.console.stream", "${x}"),
    ("job_logging.handlers.file.filename", "/root/.bashrc"),
    ("job_logging.filters.x.()", "os.system"),
    ("hydra_logging.formatters.simple.()", "os.system"),
    ("hydra_logging.handlers.x.class", "os.system"),
    ("job.env_set.LD_PRELOAD", "/tmp/x.so"),
    ("job.env_set.PYTHONSTARTUP", "/tmp/x.py"),
    ("job.env_set.PATH", "/tmp"),
    ("job.env_set.MLFLOW_TRACKING_TOKEN", "x"),
]


def test_what_this_package_ships_is_allowed() -> None:
    check_hydra(OmegaConf.create(BASIC))


@pytest.mark.parametrize(("key", "value"), CANARIES, ids=str)
def test_canary(key: str, value: object) -> None:
    cfg = OmegaConf.create(BASIC)
    OmegaConf.update(cfg, key, value, force_add=True)
    line = told(lambda: check_hydra(cfg))
    assert line.startswith(f"hydra.{key.split('.')[0]}")


def test_shell_of_a_launcher_is_the_persons_own_word() -> None:
    cfg = OmegaConf.create(BASIC)
    OmegaConf.update(cfg, "launcher", {"_target_": SLURM, "setup": ["module load cuda"]})
    cfg.overrides.hydra = ["hydra.launcher.setup=[module load cuda]"]
    check_hydra(cfg)


@pytest.mark.parametrize("more", [[], ["-m", "bits=4,8"]], ids=["run", "multirun"])
def test_a_yaml_with_a_callback_runs_nothing(tmp_path: Path, more: list[str]) -> None:
    (tmp_path / "evil").mkdir()
    (tmp_path / "evil" / "mine.yaml").write_text(
        "# @package _global_\nhydra:\n  callbacks:\n    x:\n      _target_: os.mkdir\n      path: executed\n"
    )
    typed = ["--config-dir", str(tmp_path), *more, "+evil=mine"]
    outcome = Workspace(tmp_path).type("quant-sweep", *typed)
    assert outcome.code == 2
    assert outcome.err.startswith("quant-sweep: hydra.callbacks.x._target_='os.mkdir': no config builds this here")
    assert not (tmp_path / "executed").exists()
    assert not (tmp_path / "mlruns").exists()


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (["hydra.searchpath=[pkg://canary.conf]"], "hydra.searchpath"),
        (["--config-dir", ".", "--config-name", "strange"], "hydra.searchpath"),
        (["--config-path", "pkg://canary.conf"], "--config-path"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_no_package_is_imported_to_look_for_configs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], key: str
) -> None:
    (tmp_path / "canary").mkdir()
    (tmp_path / "canary" / "__init__.py").write_text("open('executed', 'w')")
    (tmp_path / "strange.yaml").write_text("hydra:\n  searchpath: ['pkg://canary.conf']\n")
    monkeypatch.syspath_prepend(tmp_path)
    outcome = Workspace(tmp_path).type("quant-sweep", *arguments)
    assert (
        outcome.err == f"quant-sweep: {key}=pkg://canary.conf: no config is read from a package; allowed are folders\n"
    )
    assert not (tmp_path / "executed").exists()


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("outputs/sweeps/2026-01-02_03-04-05-678901", r"2026-01-02_03-04-05-678901"),
        (".", r"\w+-[0-9a-f]{8}"),
        ("/", r"-[0-9a-f]{8}"),
        ("../a b;c", r"a_b_c-[0-9a-f]{8}"),
        ("x/${oc.env:HOME}", r"sweep-[0-9a-f]{8}"),
    ],
)
def test_a_sweep_has_a_name_in_any_folder(folder: str, name: str) -> None:
    assert re.fullmatch(name, sweep_name(OmegaConf.create({"sweep": {"dir": folder}})))


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["bits=4,8", "engine.name=foo"], "engine.name=foo: .*; it stops all 2 jobs$"),
        (["bits=4,8", "observer=mse,hist", "batch_size=0"], "batch_size=0: .*; it stops all 4 jobs$"),
        (["observer=glob(x*)"], r"observer=glob\(x\*\): makes no job; "),
        (["bits=4", "seed=-1"], "seed=-1: allowed are whole numbers from 0 to 4294967295$"),
        (["bits=4,8", "model.checkpoint=nowhere"], "model.checkpoint=nowhere: no such file.*; it stops all 2 jobs$"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_mistake_of_all_jobs_is_told_once(tmp_path: Path, arguments: list[str], line: str) -> None:
    outcome = Workspace(tmp_path).type("quant-sweep", "-m", *arguments)
    assert outcome.code == 2
    (told_once,) = [text for text in outcome.err.splitlines() if text.startswith("quant-sweep: ")]
    assert re.match(f"quant-sweep: {line}", told_once)
    assert outcome.out == ""
    assert not (tmp_path / "outputs" / "sweeps").exists()
