"""Which tests run which lines of the mutated core, as coverage.py records it: only those can notice a mistake there."""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from coverage import Coverage, CoverageData

_DATA = Path(".coverage")  # in the folder where the tests run
SECONDS = Path("seconds.json")  # beside it; written last, so that it stands for a whole record


@dataclass(frozen=True)
class Covering:
    """Names of tests by file and line, what it costs to run each, and the lines run while modules are imported."""

    tests: dict[Path, dict[int, list[str]]]  # relative to the folder
    cost: dict[str, float]
    imported: dict[Path, set[int]]

    @classmethod
    def read(cls, folder: Path) -> Covering:
        """What `record` wrote there. A test costs its time times the lines that it runs: the more it runs, the less it
        is about one of them."""
        data = CoverageData(str(folder / _DATA))
        data.read()
        tests: dict[Path, dict[int, list[str]]] = {}
        imported: dict[Path, set[int]] = {}
        lines: Counter[str] = Counter()
        for file in data.measured_files():
            path, contexts = Path(file).relative_to(folder.resolve()), data.contexts_by_lineno(file)
            by_line = {line: sorted(filter(None, names)) for line, names in contexts.items()}
            tests[path] = by_line
            imported[path] = {line for line, names in contexts.items() if "" in names}
            lines.update(name for names in by_line.values() for name in names)
        seconds: dict[str, float] = json.loads((folder / SECONDS).read_text())
        return cls(tests, {name: taken * lines[name] for name, taken in seconds.items()}, imported)

    def of(self, file: Path, line: int) -> list[str]:
        """Tests that run a line, and behind them the others of their files: what a fixture of a module runs is recorded
        for the first alone."""
        near = self.tests.get(file, {}).get(line, [])
        files = {_file(name) for name in near}
        beside = [name for name in self.cost if _file(name) in files and name not in near]
        return [*sorted(near, key=self.cost.__getitem__), *sorted(beside, key=self.cost.__getitem__)]


class _Recorder:
    """A plugin of pytest: tells coverage.py which test begins, and adds up how long each takes."""

    def __init__(self, coverage: Coverage) -> None:
        self.coverage = coverage
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.coverage.switch_context(nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] += report.duration


def record(arguments: list[str]) -> int:
    """Run pytest in the present folder, and write which lines of its `quant_sweep` each test runs if all pass; pytest's
    exit code."""
    SECONDS.unlink(missing_ok=True)
    coverage = Coverage(data_file=str(_DATA), include=[str(Path("quant_sweep/*").resolve())], config_file=False)
    coverage.erase()
    recorder = _Recorder(coverage)
    coverage.start()
    code = pytest.main(arguments, plugins=[recorder])
    coverage.stop()
    coverage.save()
    if code == pytest.ExitCode.OK:
        SECONDS.write_text(json.dumps(recorder.seconds))
    return int(code)


def _file(test: str) -> str:
    return test.partition("::")[0]


if __name__ == "__main__":
    sys.exit(record(sys.argv[1:]))
