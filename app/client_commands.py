"""The commands that speak to a server over HTTP: ingest, retry, cancel."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import click

from app.batch import DEFAULT_ERROR_THRESHOLD_PERCENT, DEFAULT_PRIORITY, DEFAULT_SOURCE, PRIORITIES, SOURCES
from app.command import CouldNotError, takes_settings
from app.settings import Settings

if TYPE_CHECKING:
    from app.client import Client
    from app.follow import HandedIn, Screen

_FAILED = 1
_KEY_FILE = "command.key"


@click.command()
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--wait", is_flag=True, help="Wait for the verdict of each file.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON list of the batches.")
@click.option("--force", is_flag=True, help="Make a new batch even of bytes that are known.")
@click.option("--source", type=click.Choice(SOURCES), default=DEFAULT_SOURCE, show_default=True)
@click.option(
    "--error-threshold",
    type=click.IntRange(0, 100),
    default=DEFAULT_ERROR_THRESHOLD_PERCENT,
    show_default=True,
    help="Above this percentage of invalid rows the batch fails.",
)
@click.option("--priority", type=click.Choice(PRIORITIES), default=DEFAULT_PRIORITY, show_default=True)
@takes_settings
def ingest(
    settings: Settings,
    files: tuple[Path, ...],
    *,
    wait: bool,
    as_json: bool,
    force: bool,
    source: str,
    error_threshold: int,
    priority: str,
) -> None:
    """Upload FILES, and with --wait say what became of each.

    Exit status 0: all completed, or accepted where nobody waits. 1: one failed or was refused. 2: could not ask.
    """
    from app.client import NoAnswerError
    from app.follow import Lines, Silence, bars, follow

    _check_files(files)
    fields = {
        "source": source,
        "error_threshold_percent": str(error_threshold),
        "force": "true" if force else "false",
        "priority": priority,
    }
    items: list[HandedIn] = []
    trouble: str | None = None
    quiet = Silence() if as_json or not wait else Lines()
    with client_for(settings) as client, bars() if _wants_bars(wait=wait) else nullcontext(quiet) as screen:
        try:
            for file in files:
                items.append(_hand_in(client, file, fields, screen))
            if wait:
                follow(client, items, screen)
        except NoAnswerError as problem:
            trouble = str(problem)
    if as_json:
        click.echo(json.dumps([item.document() for item in items], indent=2))
    else:
        for item in items:
            click.echo(f"{item.file}: {item.verdict()}")
    if trouble is not None:
        raise CouldNotError(trouble)
    sys.exit(0 if all(item.is_good for item in items) else _FAILED)


@click.command()
@click.argument("batch", type=click.UUID)
@click.option("--error-threshold", type=click.IntRange(0, 100), help="A new error budget, in percent.")
@click.option("--json", "as_json", is_flag=True, help="Print the batch as JSON.")
@takes_settings
def retry(settings: Settings, batch: UUID, *, error_threshold: int | None, as_json: bool) -> None:
    """Put the failed BATCH back, to be worked on again from its stored file."""
    with _asking(settings) as client:
        document = client.retry(str(batch), error_threshold)
    click.echo(json.dumps(document, indent=2) if as_json else f"Batch {batch} is {document['status']}.")


@click.command()
@click.argument("batch", type=click.UUID)
@click.option("--json", "as_json", is_flag=True, help="Print the batch as JSON.")
@takes_settings
def cancel(settings: Settings, batch: UUID, *, as_json: bool) -> None:
    """Cancel the unfinished BATCH; none of its rows is loaded."""
    with _asking(settings) as client:
        document = client.cancel(str(batch))
    click.echo(json.dumps(document, indent=2) if as_json else f"Batch {batch} is {document['status']}.")


@contextmanager
def _asking(settings: Settings) -> Iterator[Client]:
    """A client whose refusals end the command: 1 where the server said no, 2 where it could not be asked."""
    from app.client import NoAnswerError, RefusedError

    with client_for(settings) as client:
        try:
            yield client
        except RefusedError as refused:
            click.echo(f"Error: {refused}", err=True)
            sys.exit(_FAILED)
        except NoAnswerError as problem:
            raise CouldNotError(str(problem)) from None


def client_for(settings: Settings) -> Client:
    """A client of DRAGONFLY_URL, else of the running local stack. Raises CouldNotError where address or key is missing."""
    from app.client import Client, origin_of

    if settings.dragonfly_url is None:
        raise CouldNotError(
            f"No local stack runs on {settings.home}: start one with 'dragonfly up', or set DRAGONFLY_URL."
        )
    try:
        origin_of(settings.dragonfly_url)
    except ValueError:
        raise CouldNotError(
            "DRAGONFLY_URL is no web address: it must begin with http:// or https://, then name a host, and a port if need be."
        ) from None
    return Client(settings.dragonfly_url, key_of(settings))


def key_of(settings: Settings) -> str:
    """The key that commands use: DRAGONFLY_KEY, else that of the home. Raises CouldNotError."""
    if settings.dragonfly_key is not None:
        key = settings.dragonfly_key
    else:
        try:
            key = (settings.home / _KEY_FILE).read_text().strip()
        except OSError:
            raise CouldNotError("No API key: set DRAGONFLY_KEY; 'dragonfly keys create NAME' makes one.") from None
    if not key or not key.isascii() or not key.isprintable():
        raise CouldNotError("The API key is empty or holds characters that no key has: set DRAGONFLY_KEY.")
    return key


def _check_files(files: tuple[Path, ...]) -> None:
    for file in files:
        if not file.exists():
            raise CouldNotError(f"{file}: there is no such file.")
        if not file.is_file():
            raise CouldNotError(f"{file} is not a file.")


def _wants_bars(*, wait: bool) -> bool:
    return wait and sys.stderr.isatty()


def _hand_in(client: Client, file: Path, fields: dict[str, str], screen: Screen) -> HandedIn:
    from app.client import RefusedError
    from app.follow import HandedIn

    item = HandedIn(file)
    try:
        total = file.stat().st_size
        receipt = client.upload(file, fields, lambda sent: screen.sending(item, sent, total))
    except RefusedError as refused:
        item.problem = refused.problem
    except OSError as problem:
        raise CouldNotError(f"{file} could not be read: {problem.strerror}.") from None
    else:
        item.is_duplicate = bool(receipt.pop("is_duplicate"))
        # A batch that is known already is shown with its counts, as it stands.
        item.batch = client.batch(receipt["batch_id"]) if item.is_duplicate else receipt
    return item
