"""What every command shares: ``--home`` and ``--env``, and how it says that it could not do what was asked."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

import click

from app.settings import Settings

_P = ParamSpec("_P")
COULD_NOT = 2


class CouldNotError(click.ClickException):
    """The command could not do what was asked; the message is one sentence for a person. Exit status 2."""

    exit_code = COULD_NOT


def takes_settings(command: Callable[Concatenate[Settings, _P], None]) -> Callable[..., None]:
    """Give a command ``--home`` and ``--env``, and the settings that follow from them as its first argument."""

    @click.option(
        "--home",
        type=click.Path(file_okay=False, path_type=Path),
        help="Folder of the local stack's data. [default: DRAGONFLY_HOME, else ~/.local/share/dragonfly]",
    )
    @click.option(
        "--env",
        type=click.Choice(["dev", "prod"]),
        help="Which settings to read: .env.dev or .env.prod. [default: DRAGONFLY_ENV, else dev]",
    )
    @functools.wraps(command)
    def wrapped(*args: Any, home: Path | None, env: str | None, **kwargs: Any) -> None:
        from app import logs

        settings = Settings.load(home=home, env=env)
        logs.configure(settings.env, level=logging.WARNING)
        command(settings, *args, **kwargs)

    return wrapped
