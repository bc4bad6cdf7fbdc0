"""The page of the commands is what the commands say about themselves under --help."""

from pathlib import Path

import click
import pytest

from app.cli import dragonfly
from tests.commands_page import commands, commands_as_markdown

REPOSITORY = Path(__file__).parents[2]
PAGE = (REPOSITORY / "docs" / "reference" / "commands.md").read_text(encoding="utf-8")


def test_the_documentation_is_what_the_commands_print() -> None:
    assert commands_as_markdown() == PAGE, "run: python -m tests.commands_page > docs/reference/commands.md"


@pytest.mark.parametrize("name", ["up", "ingest", "retry", "cancel", "migrate", "info", "keys create", "keys revoke"])
def test_a_command_has_its_section(name: str) -> None:
    assert f"## dragonfly {name}\n" in PAGE


def test_a_group_stands_before_its_commands() -> None:
    names = [name for name, _ in commands(dragonfly)]
    assert names[0] == "dragonfly"
    assert names.index("dragonfly keys") < names.index("dragonfly keys create")
    assert isinstance(dict(commands(dragonfly))["dragonfly keys"], click.Group)
