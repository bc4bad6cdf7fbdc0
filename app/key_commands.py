"""``dragonfly keys``: API keys, made and revoked in the database itself, so that a first key needs no key."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from app.command import CouldNotError, takes_settings
from app.settings import MIN_KEY_CHARACTERS, Settings

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from app.store.keys import Key


@click.group()
def keys() -> None:
    """Make, list and revoke API keys in DATABASE_URL's database."""


@keys.command()
@click.argument("name")
@click.option(
    "--from-file",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help=f"Take the key, {MIN_KEY_CHARACTERS} or more characters, from this file, and print none; does nothing where it is known.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@takes_settings
def create(settings: Settings, name: str, file: Path | None, *, as_json: bool) -> None:
    """Make a key and print it, this once; NAME says whose it is."""
    from app.store import keys as store

    name = name.strip()
    if not name or not name.isprintable():
        raise CouldNotError("A key needs a name of visible characters.")
    if file is not None:
        _take(settings, name, _key_in(file), as_json=as_json)
        return
    with database_of(settings) as connection:
        key, plaintext = store.create(connection, name, created_by="dragonfly keys")
    if as_json:
        click.echo(json.dumps({**_document(key), "key": plaintext}, indent=2))
        return
    click.echo(f"Key {key.id} for {key.name}; it is shown only now:", err=True)
    click.echo(plaintext)


def _take(settings: Settings, name: str, plaintext: str, *, as_json: bool) -> None:
    from app.store import keys as store

    with database_of(settings) as connection:
        made = store.ensure_key(connection, plaintext, name)
    if as_json:
        click.echo(json.dumps({"name": name, "made": made}, indent=2))
        return
    click.echo(f"The key for {name} {'is made' if made else 'was there already'}.", err=True)


def _key_in(file: Path) -> str:
    try:
        plaintext = file.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as problem:
        reason = problem.strerror if isinstance(problem, OSError) else "it is not UTF-8"
        raise CouldNotError(f"{file} cannot be read: {reason}.") from None
    if len(plaintext) < MIN_KEY_CHARACTERS:
        raise CouldNotError(f"{file} holds {len(plaintext)} characters: a key has at least {MIN_KEY_CHARACTERS}.")
    return plaintext


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list.")
@takes_settings
def list_keys(settings: Settings, *, as_json: bool) -> None:
    """List every key, without the secrets."""
    from app.store import keys as store

    with database_of(settings) as connection:
        found = store.list_keys(connection)
    if as_json:
        click.echo(json.dumps([_document(key) for key in found], indent=2))
        return
    for key in found:
        used = f"last used {key.last_used_at:%Y-%m-%d %H:%M}Z" if key.last_used_at else "never used"
        state = f"revoked {key.revoked_at:%Y-%m-%d %H:%M}Z" if key.revoked_at else used
        click.echo(f"{key.id}  {key.name}  made {key.created_at:%Y-%m-%d %H:%M}Z, {state}")


@keys.command()
@click.argument("key_id", metavar="ID", type=click.UUID)
@takes_settings
def revoke(settings: Settings, key_id: UUID) -> None:
    """End the key with this ID for good."""
    from app.store import keys as store

    with database_of(settings) as connection:
        key = store.revoke(connection, key_id)
    if key is None:
        raise CouldNotError(f"There is no key {key_id}: 'dragonfly keys list' shows them.")
    click.echo(f"Key {key.id} for {key.name} is revoked.")


@contextmanager
def database_of(settings: Settings) -> Iterator[Connection]:
    """A transaction in DATABASE_URL's database; whatever fails there becomes one sentence."""
    from sqlalchemy.exc import SQLAlchemyError

    from app.store.database import open_single

    url = settings.require_database_url()
    try:
        with open_single(url).begin() as connection:
            yield connection
    except SQLAlchemyError as problem:
        kind = type(getattr(problem, "orig", None) or problem).__name__
        raise CouldNotError(
            f"The database of DATABASE_URL cannot be used ({kind}): is it running, and migrated with 'dragonfly migrate'?"
        ) from None


def _document(key: Key) -> dict[str, Any]:
    times = {
        name: None if (value := getattr(key, name)) is None else value.isoformat().replace("+00:00", "Z")
        for name in ("created_at", "last_used_at", "revoked_at")
    }
    return {"id": str(key.id), "name": key.name, "created_by": key.created_by, **times}
