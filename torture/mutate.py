"""python -m torture.mutate: how many small mistakes in the core its tests notice.

mutmut writes each mistake (another operator, a number plus 1, an argument left out, None for a value) as a copy of its
function beside the right one, below `mutants/`; nothing else in the checkout changes. The tests are run once without
any mistake, and it is recorded which lines each of them runs. Then a seeded sample of the mistakes is tried, each with
the tests that run its line, those that run little else first, until one fails.

Not drawn, for no test is asked to notice them: other words in messages, logs and names, and `strict=` of zip, which
checks what holds. mutmut itself leaves out properties and functions below decorators of their own.

python -m torture.mutate --count 60 --seed 0
python -m torture.mutate --only quant_sweep.graph.fold.x_folded__mutmut_7
"""

from __future__ import annotations

import argparse
import ast
import io
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from functools import cache
from pathlib import Path

import pytest
from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.utils.file_utils import setup_source_paths, walk_mutatable_files

from torture.covering import SECONDS, Covering
from torture.trials import Trial, Trials

_FOLDER = Path("mutants")


def main() -> int:
    """Print what is missed, and the score; 1 if the tests fail without any mistake."""
    parser = argparse.ArgumentParser(prog="python -m torture.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=60, help="how many mistakes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these, as they are named where they were missed")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), help="how many are tried at a time")
    options = parser.parse_args()
    possible = _made()
    _tell(f"{len(possible)} mistakes can be made")
    sample = options.only or list(_draw(possible, options.count, options.seed))
    covering = _covering()
    if covering is None:
        _tell("the tests fail without any mistake: see make test")
        return 1
    _tell(f"the tests pass without any; now {len(sample)} of them")
    tried: list[str] = []
    missed: list[str] = []

    def tell(name: str, noticed: bool) -> None:
        tried.append(name)
        if not noticed:
            missed.append(name)
            _tell(f"missed: {name}\n{_difference(name)}")
        if len(tried) % 20 == 0:
            _tell(f"{len(tried)} tried, {len(missed)} missed")

    importing = [name for name in sample if _is_called_by_import(name, covering)]
    for name in importing:
        tell(name, noticed=not _passes_alone(name))
    trials = [Trial(name, covering.of(*_line(name))) for name in sample if name not in importing]
    set_mutant_under_test("")
    with chdir(_FOLDER):
        pytest.main(_pytest_arguments(), plugins=[Trials(trials, options.processes, tell)])
    noticed = len(tried) - len(missed)
    _tell(f"{noticed} of {len(tried)} mistakes noticed, {noticed / len(tried):.1%} (seed {options.seed})")
    return 0


def _pytest_arguments() -> list[str]:
    return [*config().pytest_add_cli_args, *config().pytest_add_cli_args_test_selection]


def _environment(name: str) -> dict[str, str]:
    """In which a new process imports the mutated core, with one of the mistakes or, for "", none."""
    place = _FOLDER.resolve()
    return {**os.environ, "MUTANT_UNDER_TEST": name, "PYTHONPATH": os.pathsep.join([str(place), str(place.parent)])}


def _covering() -> Covering | None:
    """Which tests run which lines, recorded if something has changed since the last time; None if tests fail."""
    record = _FOLDER / SECONDS
    newest = max(file.stat().st_mtime for folder in ("quant_sweep", "tests") for file in Path(folder).rglob("*.py"))
    if not record.exists() or record.stat().st_mtime < newest:
        command = [sys.executable, "-m", "torture.covering", *_pytest_arguments()]
        done = subprocess.run(command, cwd=_FOLDER, env=_environment(""), capture_output=True, text=True)
        if done.returncode:
            print(done.stdout, done.stderr)
            return None
    return Covering.read(_FOLDER)


def _is_called_by_import(name: str, covering: Covering) -> bool:
    """Whether its function is called while modules are imported, and perhaps makes others that tests call."""
    right, _ = _functions(name)
    return any(_spans(right, line) and line > right.lineno for line in covering.imported.get(_module(name), set()))


def _passes_alone(name: str) -> bool:
    """Whether the tests of its folder pass in a new process: what is called while modules are imported has been called,
    as it should be, before processes are forked."""
    command = [sys.executable, "-m", "pytest", "-x", *config().pytest_add_cli_args, f"tests/{_module(name).parts[1]}"]
    return subprocess.run(command, cwd=_FOLDER, env=_environment(name), capture_output=True).returncode == 0


def _line(name: str) -> tuple[Path, int]:
    """Where a mistake is made in the right function: its file and the first line of its statement."""
    right, wrong = _functions(name)
    lines = (_FOLDER / _module(name)).read_text().splitlines()
    pairs = zip(lines[right.lineno : right.end_lineno], lines[wrong.lineno : wrong.end_lineno], strict=False)
    line = next((number for number, (a, b) in enumerate(pairs, right.lineno + 1) if a != b), right.body[0].lineno)
    around = [node.lineno for node in ast.walk(right) if isinstance(node, ast.stmt) and _spans(node, line)]
    return _module(name), max(around)


def _spans(node: ast.stmt, line: int) -> bool:
    return node.lineno <= line <= (node.end_lineno or node.lineno)


def _module(name: str) -> Path:
    return Path(*name.split(".")[:-1]).with_suffix(".py")


def _made() -> list[str]:
    """Names of all mistakes; what has changed since the last time is written anew."""
    _FOLDER.mkdir(exist_ok=True)
    with redirect_stdout(io.StringIO()):
        copy_src_dir()
        copy_also_copy_files()
        setup_source_paths()
        create_mutants(1)
    names: list[str] = []
    for path in walk_mutatable_files():
        made = SourceFileMutationData(path=path)
        made.load()
        names += made.exit_code_by_key
    return sorted(names)


def _draw(names: list[str], count: int, seed: int) -> Iterator[str]:
    random.Random(seed).shuffle(names)
    for name in names:
        if count and len({_meaning(function) for function in _functions(name)}) == 2:
            count -= 1
            yield name


def _functions(name: str) -> tuple[ast.FunctionDef, ast.FunctionDef]:
    """The right function and the wrong one."""
    functions, key = _functions_in(_module(name)), name.rpartition(".")[2]
    return functions[f"{key.rpartition('__mutmut_')[0]}__mutmut_orig"], functions[key]


@cache
def _functions_in(module: Path) -> dict[str, ast.FunctionDef]:
    tree = ast.parse((_FOLDER / module).read_text())
    return {node.name: node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def _source(function: ast.FunctionDef) -> str:
    return ast.unparse(function).replace(function.name, "function", 1)


def _meaning(function: ast.FunctionDef) -> str:
    return ast.dump(_WithoutWords().visit(ast.parse(_source(function))))


class _WithoutWords(ast.NodeTransformer):
    """Takes out what no test is asked to notice."""

    def visit_Constant(self, node: ast.Constant) -> ast.AST:
        return ast.Constant("") if isinstance(node.value, str) else node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise(node.exc.func) if isinstance(node.exc, ast.Call) else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        match node.func:
            case ast.Name("zip"):
                node.keywords = []
            case ast.Attribute(ast.Name("log")):
                node.args, node.keywords = [], []
        return self.generic_visit(node)


def _difference(name: str) -> str:
    right, wrong = (_source(function).splitlines() for function in _functions(name))
    removed = [f"    - {line.strip()}" for line in right if line not in wrong]
    added = [f"    + {line.strip()}" for line in wrong if line not in right]
    return "\n".join([*removed, *added])


def _tell(text: str) -> None:
    print(f"[{sum(os.times()[:4]):4.0f} s, {time.strftime('%H:%M:%S')}] {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
