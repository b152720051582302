"""What the commands share: where the config lies, and how errors of the person who types are shown."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import hydra
from hydra.errors import HydraException, MissingConfigException
from omegaconf import DictConfig
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from quant_sweep.arithmetic.widths import MAX_BITS, MIN_BITS
from quant_sweep.cli.schema import Common, register
from quant_sweep.cli.signals import Stopped, say_stopped, stopped_by_signals
from quant_sweep.errors import InputError

_PACKAGE = Path(__file__).parents[1]


def config_folder() -> Path:
    """The config tree: inside an installed package, or beside it in a checkout."""
    installed = _PACKAGE / "conf"
    return installed if installed.is_dir() else _PACKAGE.parent / "conf"


def run_hydra(config_name: str, job: Callable[[DictConfig], None], *types: type[Common]) -> None:
    """Compose the config from the command line and run `job` with it, once or for each point of a multirun.

    Args:
        config_name: of a file in the config folder.
        job: takes the composed config.
        types: those that the config names as `schema/...`.
    """
    register(*types)
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises, and the message is ours
    hydra.main(version_base="1.3", config_path=str(config_folder()), config_name=config_name)(job)()


@contextlib.contextmanager
def one_line_errors(command: str) -> Iterator[None]:
    """End the program with one line and exit code 2 where what was typed, or where it should go, cannot be used; with
    one line and 128 + its number where a signal asks for the end.

    Other exceptions are faults of the program and keep their traceback.
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
        if error.filename is None:
            raise
        _stop(command, f"{error.filename}: {error.strerror}; choose outputs_dir and tracking.* where you may write")


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
    print(f"{command}: {message}", file=sys.stderr)
    raise SystemExit(2)
