"""The ``dragonfly`` command: the composition root that wires settings, the local stack and the store."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import platform
import secrets
import sys
import traceback
from collections.abc import Callable, Mapping
from typing import Any

import click

from app.client_commands import cancel, ingest, retry
from app.command import COULD_NOT, CouldNotError, takes_settings
from app.key_commands import keys
from app.local import LocalStackError, stack
from app.local.console import Console
from app.local.home import Home, read_run, running_pid
from app.settings import Settings, SettingsError, inherited_environment
from app.sign_in_command import link_with, sign_in
from app.smoke_commands import smoke
from app.upkeep_commands import collect, verify
from monitoring.command import sentinel

_ADMIN_KEY = "admin_key"
_SHOWN = ""
"""What the home keeps in place of an admin key that was made and has been shown."""


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="dragonfly")
def dragonfly() -> None:
    """Dragonfly ingests vendor exports of court judgments into PostgreSQL: every row stored or explained.

    Start everything on this machine with 'dragonfly up'. Settings come from the environment, else from .env.dev or
    .env.prod, else from .env. Exit status 2 means that the command could not do what was asked, and why stands on
    stderr.
    """


@dragonfly.command()
@click.option(
    "--port", type=click.IntRange(0, 65535), help="The web port, 0 for a free one. [default: PORT, else 8000]"
)
@click.option(
    "--workers",
    type=click.IntRange(1, 64),
    default=2,
    show_default=True,
    help="How many batches are worked on at once.",
)
@click.option("--database-only", is_flag=True, help="Start the home's database and nothing else: to load a backup.")
@takes_settings
def up(settings: Settings, *, port: int | None, workers: int, database_only: bool) -> None:
    """Start everything: database, broker, web, worker, beat and Flower.

    Runs until Ctrl-C, which lets running batches finish or hand over; a second Ctrl-C hurries. Without DATABASE_URL
    and REDIS_URL, a PostgreSQL and a Valkey of its own are kept in the home; only the local database is migrated.
    """
    console = Console(sys.stdout.fileno(), colour=sys.stdout.isatty())
    try:
        with Home(settings.home) as home:
            # Only now is it certain that a run file, whose addresses the settings took over, is a killed stack's.
            killed_port = home.previous_run().get("port")
            home.remove_run()
            settings = Settings.load(home=settings.home, env=settings.env)
            wanted = dataclasses.replace(
                _wanted(settings, port=port, workers=workers, killed_port=killed_port), database_only=database_only
            )
            if database_only and wanted.database_url is not None:
                raise CouldNotError("DATABASE_URL is set, so there is no database in the home to start: unset it.")
            sys.exit(_run_stack(home, settings, wanted, console))
    finally:
        console.close()


@dragonfly.command()
@takes_settings
def migrate(settings: Settings) -> None:
    """Bring the database of DATABASE_DIRECT_URL, or of the running local stack, to this version's schema."""
    from app.store import schema

    url = settings.require_database_direct_url()
    _database_work("The database could not be migrated", lambda: schema.migrate(url))
    click.echo("The database is at this version's schema.")


@dragonfly.command()
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@takes_settings
def info(settings: Settings, as_json: bool) -> None:
    """Print where everything is: the web address, and URLs to paste into psql and redis-cli."""
    running = running_pid(settings.home)
    run = read_run(settings.home) if running else {}
    if not run and settings.database_url is None:
        state = f"A stack (pid {running}) is still starting on" if running else "No local stack runs on"
        raise CouldNotError(f"{state} {settings.home}, and DATABASE_URL is not set: start one with 'dragonfly up'.")
    local = run.get("versions") or {}
    facts: dict[str, Any] = {
        "web": run.get("web") or settings.dragonfly_url,
        "database_url": settings.database_url,
        "database_direct_url": settings.database_direct_url,
        "redis_url": settings.redis_url,
        "storage_url": settings.storage,
        "home": str(settings.home),
        "pid": run.get("pid"),
        "started_at": run.get("started_at"),
        "flower": {
            "url": run.get("flower_url"),
            "user": run.get("flower_user"),
            "password": run.get("flower_password"),
        },
        "worker_metrics": run.get("worker_metrics_url"),
        "versions": {
            "dragonfly": _own_version(),
            "python": platform.python_version(),
            "postgres": local.get("postgres") or _postgres_version(settings.database_url),
            "valkey": local.get("valkey") or _broker_version(settings.redis_url),
        },
    }
    if as_json:
        click.echo(json.dumps(facts, indent=2))
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {part}" for key, part in value.items() if part is not None)  # noqa: PLW2901
        click.echo(f"{name:<20} {value or 'not set'}")


for command in (ingest, retry, cancel, keys, sign_in, sentinel, smoke, verify, collect):
    dragonfly.add_command(command)


def main() -> None:
    """Run the command; a failure is one sentence on stderr and exit status 2, never a traceback."""
    try:
        dragonfly(standalone_mode=True)
    except (SettingsError, LocalStackError) as problem:
        _fail(str(problem))
    except Exception as problem:
        # Its text may hold a row's data, so only its kind and its place are shown.
        place = traceback.extract_tb(problem.__traceback__)[-1]
        _fail(
            f"Unexpected {type(problem).__name__} at {place.filename}:{place.lineno}; this is a fault of Dragonfly's."
        )


def _fail(sentence: str) -> None:
    click.echo(f"Error: {sentence}", err=True)
    sys.exit(COULD_NOT)


def _wanted(settings: Settings, *, port: int | None, workers: int, killed_port: int | None) -> stack.Wanted:
    if (settings.database_direct_url is None) != (settings.database_url is None):
        raise CouldNotError(
            "Only one of DATABASE_URL and DATABASE_DIRECT_URL is set: set both, or neither for the local database."
        )
    return stack.Wanted(
        env={**inherited_environment(), "DRAGONFLY_ENV": settings.env},
        port=settings.port if port is None else port,
        killed_port=killed_port,
        workers=workers,
        storage_url=settings.storage,
        database_url=settings.database_url,
        database_direct_url=settings.database_direct_url,
        redis_url=settings.redis_url,
        dragonfly_url=settings.dragonfly_url,
        secret_key=settings.secret_key,
        flower_url=settings.flower_url,
        pg_bin=settings.pg_bin,
        worker_metrics=settings.worker_metrics,
    )


def _run_stack(home: Home, settings: Settings, wanted: stack.Wanted, console: Console) -> int:
    first_key = _first_admin_key(home, settings)
    keys = {"admin": first_key, "local command": home.command_key()}

    def prepare(addresses: stack.Addresses) -> None:
        known = dataclasses.replace(
            settings, database_url=addresses.database_url, database_direct_url=addresses.database_direct_url
        )
        _prepare_database(known, local=addresses.local_database, keys={name: key for name, key in keys.items() if key})

    def announce(addresses: stack.Addresses) -> None:
        if settings.admin_key is None and first_key:
            console.say("up", f"Admin key, shown this once: {first_key}")
            home.keep_secret(_ADMIN_KEY, _SHOWN)
        console.say("up", _sign_in_sentence(addresses, home.command_key()))

    return stack.run(home, wanted, console=console, prepare_database=prepare, announce=announce)


def _sign_in_sentence(addresses: stack.Addresses, key: str) -> str:
    from sqlalchemy.exc import SQLAlchemyError

    from app.store.database import open_single
    from app.store.sign_in import LINK_MINUTES

    try:
        with open_single(addresses.database_url).begin() as connection:
            link = link_with(connection, addresses.web, key)
    except SQLAlchemyError as problem:
        # The stack runs without it, as on a database of somebody else's that is not migrated yet.
        kind = type(getattr(problem, "orig", None) or problem).__name__
        return f"No sign-in link could be made ({kind}): see 'dragonfly sign-in'."
    if link is None:
        return "The local command's key is revoked, so no sign-in link was made: see 'dragonfly sign-in --help'."
    return f"Sign in with a browser, once and within {LINK_MINUTES} minutes: {link}"


def _first_admin_key(home: Home, settings: Settings) -> str:
    """DRAGONFLY_ADMIN_KEY, else one made for this home and kept until it has been shown; empty afterwards."""
    if settings.admin_key is not None:
        return settings.admin_key
    if not home.has_secret(_ADMIN_KEY):
        home.keep_secret(_ADMIN_KEY, secrets.token_urlsafe(32))
    return home.secret(_ADMIN_KEY)


def _prepare_database(settings: Settings, *, local: bool, keys: Mapping[str, str]) -> None:
    """Make the database ready for the application: schema, its role's password, and the ``keys`` that must be accepted.

    ``keys`` are name -> plaintext. Only a ``local`` database is migrated; the operator of any other one does that with
    'dragonfly migrate'.
    """
    import psycopg
    from psycopg import sql
    from psycopg.conninfo import conninfo_to_dict

    from app.store import schema
    from app.store.database import open_single
    from app.store.keys import ensure_key

    def work() -> None:
        if local:
            direct_url = settings.require_database_direct_url()
            schema.migrate(direct_url)
            role = conninfo_to_dict(settings.require_database_url())
            user, password = sql.Identifier(str(role["user"])), sql.Literal(role["password"])
            with psycopg.connect(direct_url) as owner:
                owner.execute(sql.SQL("ALTER ROLE {} PASSWORD {}").format(user, password))
        with open_single(settings.require_database_url()).begin() as connection:
            for name, plaintext in keys.items():
                ensure_key(connection, plaintext, name)

    _database_work("The database could not be prepared", work)


def _database_work(what: str, work: Callable[[], object]) -> None:
    """Do ``work``; a failure of the database becomes LocalStackError, with what the server says, which holds no row's data.

    Where there is no answer of a server, the text is libpq's and may quote the address, with its password.
    """
    import psycopg
    import sqlalchemy.exc

    try:
        work()
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as problem:
        original = getattr(problem, "orig", None) or problem
        said = getattr(getattr(original, "diag", None), "message_primary", None)
        kind = f"{type(original).__name__}: is the server running, and are its address and password right?"
        raise LocalStackError(f"{what}: {said or kind}") from None


def _own_version() -> str | None:
    try:
        return importlib.metadata.version("dragonfly")
    except importlib.metadata.PackageNotFoundError:
        # Run from a checkout that nobody installed.
        return None


def _postgres_version(url: str | None) -> str | None:
    import psycopg

    if url is None:
        return None
    try:
        with psycopg.connect(url, connect_timeout=3, prepare_threshold=None) as connection:
            found = connection.execute("SHOW server_version").fetchone()
    except psycopg.Error:
        return None
    return str(found[0]) if found else None


def _broker_version(url: str | None) -> str | None:
    import redis

    if url is None:
        return None
    try:
        with redis.Redis.from_url(url, socket_timeout=3, socket_connect_timeout=3) as client:
            facts: Any = client.info("server")
    except redis.RedisError:
        return None
    found = facts.get("valkey_version") or facts.get("redis_version")
    return str(found) if found else None


if __name__ == "__main__":
    main()
