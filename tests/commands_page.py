"""The reference of the commands, made from their --help: ``python -m tests.commands_page > docs/reference/commands.md``."""

from __future__ import annotations

from collections.abc import Iterator

import click

from app.cli import dragonfly

_WIDTH = 100
_INTRODUCTION = """# The commands

Made from the commands' own help by `python -m tests.commands_page > docs/reference/commands.md`; a test holds this page to
it. In a checkout the command is `.venv/bin/dragonfly`.

- Addresses and keys come from the [settings](settings.md), else from the local stack that runs on `--home`.
- What a program may read (`--json`, a key that was made) goes to stdout; progress and errors go to stderr.
- Exit status 2 means that the command could not do what was asked; the reason is one sentence on stderr.
"""


def commands(command: click.Command, parent: click.Context | None = None) -> Iterator[tuple[str, click.Command]]:
    """The command and those below it, each with its full name, a group before its own."""
    context = click.Context(command, parent, info_name=command.name, **command.context_settings)
    yield context.command_path, command
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            if below is not None:
                yield from commands(below, context)


def commands_as_markdown() -> str:
    """The page: one section for every command."""
    lines = [_INTRODUCTION]
    for name, command in commands(dragonfly):
        context = click.Context(command, info_name=name, terminal_width=_WIDTH, max_content_width=_WIDTH)
        context.help_option_names = ["-h", "--help"]
        # click keeps the option as whoever asked first has named it.
        command._help_option = None
        lines += [f"## {name}", "", "```text", command.get_help(context), "```", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    print(commands_as_markdown(), end="")
