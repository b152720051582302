"""What the documents show exists: their commands compose, their links and pictures lead somewhere."""

import re
from pathlib import Path

import pytest
from configured import composed
from documented import DOCUMENTS, Command, documented_commands, single_values

COMMANDS = list(documented_commands())


def test_commands_were_found() -> None:
    assert {command.program for command in COMMANDS} >= {"quant-sweep", "quant-sweep-report"}


@pytest.mark.parametrize("command", COMMANDS, ids=str)
def test_a_documented_command_composes(command: Command) -> None:
    assert composed(*single_values(command.overrides), config=command.config)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text()):
        assert target.startswith("https://") or (document.parent / target).exists(), target
