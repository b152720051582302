"""What the commands share: where the config lies, and how errors of the person who types are shown."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import pickle
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import hydra
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.config_repository import ConfigRepository
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException, MissingConfigException
from hydra.plugins.config_source import ConfigResult
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from quant_sweep.arithmetic.widths import MAX_BITS, MIN_BITS
from quant_sweep.cli.foreign import check_hydra, check_search_path
from quant_sweep.cli.jobs import check_jobs
from quant_sweep.cli.progress import Display, steps_shown, terminal
from quant_sweep.cli.schema import Common, check_keys, register
from quant_sweep.cli.signals import Stopped, say_stopped, stopped_by_signals
from quant_sweep.errors import InputError, printable
from quant_sweep.sweep.choices import config_folder

_IN_THIS_PROCESS = "hydra._internal.core_plugins.basic_launcher.BasicLauncher"
_KEPT_CONFIGS = 2000  # jobs, some 5 kB each
# How SQLite, torch and safetensors tell of a full disk.
_FULL = ("No space left on device", "database or disk is full", "Disk quota exceeded")


def run_hydra(
    config_name: str,
    job: Callable[[DictConfig], None],
    *types: type[Common],
    check: Callable[[DictConfig, bool], None] | None = None,
    display: Display | None = None,
) -> None:
    """Compose the config from the command line and run `job` with it, once or for each point of a multirun.

    Args:
        config_name: of a file in the config folder.
        job: takes the composed config.
        types: those that the config names as `schema/...`; the last has all its keys.
        check: tells before a multirun begins what stops a job of it; its errors are told once where all jobs have them.
            Takes the config of a job, and whether the job will run in this process.
        display: shows long steps; the terminal's own if it is not given.
    """
    register(*types)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the message is ours

    @functools.wraps(job)
    def known(cfg: DictConfig) -> None:
        check_keys(cfg, types[-1])
        job(cfg)

    def check_job(cfg: DictConfig) -> None:
        in_this_process = str(cfg.hydra.launcher._target_) == _IN_THIS_PROCESS
        task = OmegaConf.masked_copy(cfg, [str(key) for key in cfg if key != "hydra"])
        check_keys(task, types[-1])
        if check is not None:
            check(task, in_this_process)

    display = display or Display(terminal())
    with steps_shown(display), _checked_composition(check_job, display), _quiet_failures():
        hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)(known)()


def take_flag(flag: str) -> bool:
    """Whether `flag` was typed; it is taken out of the arguments, which Hydra reads."""
    typed = flag in sys.argv[1:]
    sys.argv[1:] = [argument for argument in sys.argv[1:] if argument != flag]
    return typed


def release_memory(made: JobReturn) -> None:
    """Drop what Hydra keeps of a job until its multirun ends, and nobody reads: two configs, some 200 kB, and of a job
    that failed all variables of the functions that its error came through, tensors included."""
    made.cfg = made.hydra_cfg = None
    error = made._return_value if made.status == JobStatus.FAILED else None
    while isinstance(error, BaseException):
        traceback.clear_frames(error.__traceback__)
        error = error.__cause__ or error.__context__


def _keep_returned(made: JobReturn, value: Any) -> None:
    made._return_value = value


@contextlib.contextmanager
def _quiet_failures() -> Iterator[None]:
    """Keep Hydra from writing the arguments of a failed job to the terminal: the error that it raises is told."""

    def returned(made: JobReturn) -> Any:
        if made.status == JobStatus.FAILED:
            raise made._return_value
        return made._return_value

    with mock.patch.object(JobReturn, "return_value", property(returned, _keep_returned)):
        yield


@contextlib.contextmanager
def _checked_composition(check_job: Callable[[DictConfig], None], display: Display) -> Iterator[None]:
    """Look at every config that Hydra composes before Hydra builds anything of it; there is no hook for that.

    The config of a job is composed three times, by the check of the jobs and by Hydra's sweeper and launcher, each time
    for as long as a point's evaluation may take. Each is kept, packed: it takes 300 kB as objects.
    """
    compose, look_into = ConfigLoaderImpl.load_configuration, ConfigRepository.initialize_sources
    kept: dict[tuple[object, ...], bytes] = {}

    def composed(
        loader: ConfigLoaderImpl, config_name: str | None, overrides: list[str], run_mode: RunMode, **named: Any
    ) -> DictConfig:
        if run_mode != RunMode.RUN:
            return compose(loader, config_name, overrides, run_mode, **named)
        key = config_name, *overrides, *named.items()
        if key in kept:
            same: DictConfig = pickle.loads(zlib.decompress(kept[key]))
            return same
        cfg = compose(loader, config_name, overrides, run_mode, **named)
        if len(kept) < _KEPT_CONFIGS:  # all are asked for in turn, so that what makes room would be asked for next
            kept[key] = zlib.compress(pickle.dumps(cfg), level=1)
        return cfg

    def checked(loader: ConfigLoaderImpl, *, run_mode: RunMode, **named: Any) -> DictConfig:
        cfg = composed(loader, run_mode=run_mode, **named)
        check_hydra(cfg.hydra)
        if run_mode == RunMode.MULTIRUN and named.get("validate_sweep_overrides", True):  # else Hydra asks for its mode
            display.jobs = check_jobs(loader, cfg, check_job)
        return cfg

    def looked_into(repository: ConfigRepository, config_search_path: ConfigSearchPath) -> None:
        check_search_path(config_search_path)
        look_into(repository, config_search_path)

    with (
        mock.patch.object(ConfigLoaderImpl, "load_configuration", checked),
        mock.patch.object(ConfigRepository, "initialize_sources", looked_into),
        config_files_read_once(),
    ):
        yield


@contextlib.contextmanager
def config_files_read_once() -> Iterator[None]:
    """Keep what Hydra reads, for the next composition: to parse some twenty files is up to half of one."""
    load = ConfigRepository.load_config
    kept: dict[tuple[str, ...], bytes] = {}

    def loaded(repository: ConfigRepository, config_path: str) -> ConfigResult | None:
        key = config_path, *(source.path for source in repository.get_sources())
        if key not in kept:
            kept[key] = pickle.dumps(load(repository, config_path))
        same: ConfigResult | None = pickle.loads(kept[key])
        return same

    with mock.patch.object(ConfigRepository, "load_config", loaded):
        yield


@contextlib.contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """End the program with one line and exit code 2 where what was typed, or where it should go, cannot be used; with
    one line and 128 + its number where a signal asks for the end.

    Other exceptions are faults of the program, or of a person's own factory, and keep their traceback.
    """
    try:
        with stopped_by_signals():
            yield
    except Stopped as stopped:
        say_stopped(command, stopped)
        raise SystemExit(stopped.exit_code) from None
    except InputError as error:
        _stop(command, str(error))
    except OmegaConfBaseException as error:
        _stop(command, _config_error(error))
    except MissingConfigException as error:
        _stop(command, _unknown_choice(error))
    except HydraException as error:
        cause = error.__cause__
        _stop(command, _config_error(cause) if isinstance(cause, OmegaConfBaseException) else _one_line(error))
    except OSError as error:
        if (full := disk_full(error)) is not None:
            _stop(command, full)
        if error.filename is None:
            raise
        _stop(command, f"{error.filename}: {error.strerror}; choose outputs_dir and tracking.* where you may write")
    except Exception as error:
        if (full := disk_full(error)) is not None:
            _stop(command, full)
        raise


def disk_full(error: BaseException) -> str | None:
    """One line where a disk that is full, or a quota that is used up, is behind an exception."""
    cause: BaseException | None = error
    while cause is not None:
        number, text = getattr(cause, "errno", None), str(cause)
        if number in (errno.ENOSPC, errno.EDQUOT) or any(words in text for words in _FULL):
            where = f"{cause.filename}: " if isinstance(cause, OSError) and cause.filename else ""
            return f"{where}the disk is full; free some space, or choose outputs_dir and tracking.* elsewhere"
        cause = cause.__cause__ or cause.__context__
    return None


def _config_error(error: OmegaConfBaseException) -> str:
    """One line with key, value and what is allowed."""
    key, value = str(error.full_key), getattr(error, "value", None)
    typed = f"{key}={value}" if value is not None else _typed(key)
    if isinstance(error, ConfigKeyError | ConfigAttributeError) and isinstance(error.parent_node, DictConfig):
        known = sorted(str(name) for name in error.parent_node)
        return f"{typed}: no such key; allowed are {', '.join(known)}"
    if key.endswith("bits"):
        return f"{typed}: allowed are the whole numbers {MIN_BITS} to {MAX_BITS}"
    return f"{typed}: {_one_line(error)}"


def _typed(key: str) -> str:
    """The argument that sets `key`, where it was typed in one piece."""
    arguments = (argument.lstrip("+~") for argument in sys.argv[1:])
    return next((argument for argument in arguments if argument.startswith(f"{key}=")), key)


def _unknown_choice(error: MissingConfigException) -> str:
    """One line for a group's choice that is not there."""
    group, _, name = str(error.missing_cfg_file).rpartition("/")
    if not group or not error.options:
        return _one_line(error)
    return f"{group}={name}: there is none; allowed are {', '.join(sorted(error.options))}"


def _one_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines()]
    return " ".join(line for line in lines if line and not line.startswith(("full_key", "object_type", "reference")))


def _stop(command: str, message: str) -> None:
    print(printable(f"{command}: {message}"), file=sys.stderr)
    raise SystemExit(2)
