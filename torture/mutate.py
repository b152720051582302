"""python -m torture.mutate: how many small mistakes in the core its tests notice.

mutmut writes each mistake (another operator, a number plus 1, an argument left out, None for a value) as a copy of its
function beside the right one, below `mutants/`; nothing else in the checkout changes. A seeded sample of them is tried,
each in a process forked from one that has imported torch and the tests: first the tests of its own module, then the
others of its folder, until one fails. What only tests of another folder would notice counts as missed.

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
from contextlib import redirect_stdout
from functools import cache
from pathlib import Path

import torch
from mutmut.__main__ import copy_also_copy_files, copy_src_dir, create_mutants
from mutmut.configuration import config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.utils.file_utils import setup_source_paths, walk_mutatable_files
from mutmut.workers.isolation import get_mutant_runner

_FOLDER = Path("mutants")
_CPU_LIMIT = 600  # seconds a mistake, and half as many on the clock: an endless loop is noticed too
_MISSED, _NOTICED = (0,), (1, 2, 3)  # exit codes of pytest: all passed; a test failed, or could not even begin
# Where the tests of a module are that has no file of its own.
_TESTS_OF = {
    "fake_quantize": "engines/test_simulate.py",
    "learned": "recovery/test_distill.py",
    "normalize": "engines/test_operations_contract.py",
    "onednn": "engines/test_int8.py",
    "operations": "engines/test_operations_contract.py",
    "program": "graph/test_names.py",
    "search_widths": "evaluation/test_allocate.py",
    "spread": "engines/test_transposed.py",
    "tensor_damages": "evaluation/test_allocate.py",
}


def main() -> int:
    """Print what is missed, and the score; 1 if the tests fail without any mistake."""
    parser = argparse.ArgumentParser(prog="python -m torture.mutate", description=__doc__.partition("\n")[0])
    parser.add_argument("--count", type=int, default=60, help="how many mistakes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these, as they are named where they were missed")
    options = parser.parse_args()
    possible = _made()
    _tell(f"{len(possible)} mistakes can be made")
    sample = options.only or list(_draw(possible, options.count, options.seed))
    torch.export.export(torch.nn.ReLU(), (torch.zeros(1),))  # imports what all forked processes need
    runner = get_mutant_runner()
    set_mutant_under_test("")
    if runner.run_clean_tests(sorted({file for name in sample for file in tests_of(name)})):
        _tell("the tests fail without any mistake: see make test")
        return 1
    _tell(f"their tests pass without any; now {len(sample)} of them")
    runner.startup()
    missed = 0
    for number, name in enumerate(sample, 1):
        runner.submit(name, tests_of(name), _CPU_LIMIT, 0.0)
        code = runner.wait_for_result().exit_code
        if code in _MISSED and _passes_alone(name):
            missed += 1
            _tell(f"missed: {name}\n{_difference(name)}")
        elif code not in (*_MISSED, *_NOTICED):
            _tell(f"noticed by exit code {code} (below 0: a signal): {name}")
        if number % 20 == 0:
            _tell(f"{number} tried, {missed} missed")
    runner.shutdown()
    noticed = len(sample) - missed
    _tell(f"{noticed} of {len(sample)} mistakes noticed, {noticed / len(sample):.1%} (seed {options.seed})")
    return 0


def tests_of(name: str) -> list[str]:
    """Files of tests that shall notice a mistake: those of its own module first, then those that speak of it most."""
    _, folder, *modules = _module(name).with_suffix("").parts
    own = [Path("tests") / _TESTS_OF.get(module, f"{folder}/test_{module}.py") for module in reversed(modules)]
    own = [file for file in own if file.exists()]
    others = [file for file in sorted((Path("tests") / folder).glob("test_*.py")) if file not in own]
    others.sort(key=lambda file: file.read_text().count(modules[-1]), reverse=True)
    return [str(file) for file in (*own, *others)]


def _passes_alone(name: str) -> bool:
    """Whether the tests that are most about it pass in a new process too: what is called while modules are imported has
    been called, as it should be, before processes are forked."""
    environment = {**os.environ, "MUTANT_UNDER_TEST": name, "PYTHONPATH": str(_FOLDER.resolve())}
    command = [sys.executable, "-m", "pytest", "-x", *config().pytest_add_cli_args, *tests_of(name)[:2]]
    return subprocess.run(command, cwd=_FOLDER, env=environment, capture_output=True).returncode in _MISSED


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
