"""What the documents show exists: their commands compose, their links and pictures lead somewhere."""

import re
from pathlib import Path

import pytest
import yaml
from configured import composed
from documented import DOCUMENTS, ROOT, Command, documented_commands, single_values

FOR_CONTRIBUTORS = [ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"]
COMMANDS = list(documented_commands())


def composition(command: Command) -> tuple[str, tuple[str, ...]]:
    """What has to compose; commands that ask for the same count once."""
    return command.config, tuple(single_values(command.overrides))


def test_commands_were_found() -> None:
    assert {command.program for command in COMMANDS} >= {"quant-sweep", "quant-sweep-report"}


@pytest.mark.parametrize("command", {composition(command): command for command in COMMANDS}.values(), ids=str)
def test_a_documented_command_composes(command: Command) -> None:
    config, overrides = composition(command)
    assert composed(*overrides, config=config)


@pytest.mark.parametrize(
    "document", [*DOCUMENTS, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: path.name
)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target


def test_paths_that_contributors_are_pointed_to_exist() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = {path for path in re.findall(r"`([\w/.]+/[\w/.]*)`", text) if not path.startswith(".venv")}
    assert len(paths) > 5
    for path in paths:
        assert any((start / path).exists() for start in (ROOT, ROOT / "quant_sweep")), path


def test_hooks_run_what_make_check_runs() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert recipe is not None
    checks = [line.strip().replace("$(BIN)", ".venv/bin") for line in recipe[1].splitlines()]
    (repository,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert repository["repo"] == "local"
    assert [hook["entry"] for hook in repository["hooks"]] == checks
    assert {hook["language"] for hook in repository["hooks"]} == {"system"}
