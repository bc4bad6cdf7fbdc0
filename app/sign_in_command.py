"""``dragonfly sign-in``: a link that signs a browser in, once; made in the database itself, as the keys are."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import click

from app.client_commands import key_of
from app.command import CouldNotError, takes_settings
from app.key_commands import database_of
from app.local.home import read_run
from app.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection


@click.command("sign-in")
@click.option("--for", "key_id", metavar="ID", type=click.UUID, help="Sign in with the key that has this ID.")
@takes_settings
def sign_in(settings: Settings, key_id: UUID | None) -> None:
    """Print a link that signs a browser in, once and within 15 minutes.

    Without --for it signs in with the key that the command itself uses: DRAGONFLY_KEY, else that of the home.
    """
    web = _web(settings)
    with database_of(settings) as connection:
        link = link_for(connection, web, key_id) if key_id else link_with(connection, web, key_of(settings))
    if link is None:
        raise CouldNotError("There is no such key, or it is revoked: 'dragonfly keys list' shows them.")
    click.echo(link)


def link_with(connection: Connection, web: str, plaintext: str) -> str | None:
    """The link that signs in with this key at the address ``web``; None for a key that is not valid."""
    from app.store import keys

    key = keys.authenticate(connection, plaintext)
    return None if key is None else link_for(connection, web, key.id)


def link_for(connection: Connection, web: str, key_id: UUID) -> str | None:
    """The same for the key with this id.

    The token stands behind the #, which a browser keeps to itself: it is in no server's log and in no Referer.
    """
    from app.store.sign_in import make_token

    token = make_token(connection, key_id)
    return None if token is None else f"{web.rstrip('/')}/sign-in#token={token}"


def _web(settings: Settings) -> str:
    run = read_run(settings.home)
    # Where the database is another one than the running stack's, its web server would not know the token.
    runs_here = bool(run) and run.get("database_url") == settings.database_url
    web = (run.get("web") if runs_here else None) or settings.dragonfly_url
    if web is None:
        raise CouldNotError(
            f"No local stack runs on {settings.home}: start one with 'dragonfly up', or set DRAGONFLY_URL."
        )
    return str(web)
