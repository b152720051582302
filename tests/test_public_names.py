"""The top level: every public name is the object of its module, and none is imported before it is asked for."""

import ast
import importlib
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import quant_sweep

SOURCE = Path(quant_sweep.__file__)


def in_a_fresh_interpreter(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def names_for_type_checkers() -> dict[str, str]:
    """Name -> module of the imports under `if TYPE_CHECKING`."""
    guarded = next(node for node in ast.parse(SOURCE.read_text()).body if isinstance(node, ast.If))
    imports = [node for node in guarded.body if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


def test_tables_name_the_same() -> None:
    assert names_for_type_checkers() == quant_sweep._HOMES
    assert set(quant_sweep.__all__) == {*quant_sweep._HOMES, "__version__"}


@pytest.mark.parametrize("name", sorted(quant_sweep._HOMES))
def test_a_name_is_the_object_of_its_module(name: str) -> None:
    home = importlib.import_module(quant_sweep._HOMES[name])
    assert getattr(quant_sweep, name) is getattr(home, name)
    assert name in dir(quant_sweep)


def test_an_unknown_name_is_no_attribute() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'Mse'"):
        quant_sweep.Mse  # noqa: B018
    assert not hasattr(quant_sweep, "quantise")


def test_version_is_that_of_the_installed_package() -> None:
    assert quant_sweep.__version__ == metadata.version("quant-sweep")


def test_importing_the_package_loads_nothing_of_it() -> None:
    program = (
        "import sys; before = set(sys.modules); import quant_sweep; dir(quant_sweep); "
        "print(sorted(m for m in set(sys.modules) - before if m.startswith(('torch', 'quant_sweep.', 'mlflow'))))"
    )
    assert in_a_fresh_interpreter(program) == "[]"


def test_names_are_imported_as_one_writes_them() -> None:
    program = (
        "from quant_sweep import *; from quant_sweep import MSE, calibrate; import quant_sweep; "
        "print(MSE.__name__, calibrate.__name__, quantize.__name__, Fusion.conv_bn_relu.value, bool(__version__))"
    )
    assert in_a_fresh_interpreter(program) == "MSE calibrate quantize conv_bn_relu True"
