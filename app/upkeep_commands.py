"""The commands that look after what is stored: ``dragonfly verify`` and ``dragonfly collect``."""

from __future__ import annotations

import datetime as dt
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from uuid import UUID

import click

from app.command import CouldNotError, takes_settings
from app.settings import SHORTEST_COLLECT_HOURS, Settings

if TYPE_CHECKING:
    from app.comparison import Compared, Difference
    from app.store.leftovers import Kind
    from app.store.upkeep import Stored

_DIFFERENT = 1
_TOO_MANY = 1


@click.command()
@click.argument("batch", required=False, type=click.UUID)
@click.option("--values", is_flag=True, help="Print both values of each difference: they are personal data.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print a JSON object for each difference, one a line, and a summary."
)
@takes_settings
def verify(settings: Settings, batch: UUID | None, *, values: bool, as_json: bool) -> None:
    """Derive every judgment, row error and conflict again from its file and compare it with the database.

    Of one BATCH, or of all. Reads DATABASE_URL and STORAGE_URL, changes nothing, and may run beside everything else.
    Differences are named by batch, row and column. Exit status 0: there are none. 1: there are. 2: could not ask.
    """
    from app.store.blobs import StorageError

    def tell(difference: Difference) -> None:
        if as_json:
            click.echo(json.dumps(_document(difference, values=values)))
        else:
            shown = f" (derived {difference.derived!r}, stored {difference.stored!r})" if values else ""
            click.echo(f"{difference}{shown}")

    began = time.monotonic()
    with _asking():
        try:
            done = _compare(settings, batch, tell)
        except StorageError as problem:
            raise CouldNotError(f"The stored files could not be read: {problem}.") from None
    if done is None:
        raise CouldNotError(f"There is no batch {batch}.")
    _summarise(done, time.monotonic() - began, as_json=as_json)
    sys.exit(_DIFFERENT if done.differences else 0)


@click.command()
@click.option("--dry-run", is_flag=True, help="Name what would be removed, and remove nothing.")
@click.option("--all", "however_many", is_flag=True, help="Remove them however many they are.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")
@takes_settings
def collect(settings: Settings, *, dry_run: bool, however_many: bool, as_json: bool) -> None:
    """Remove the stored files of which there is no batch, as beat does every hour.

    Uploads that were broken off leave them behind. None goes before it is COLLECT_AFTER_HOURS old. All files are
    looked at. Where more than 20 have no batch, none of them goes without --all: the database may have been set back,
    or be one of two beside the same store. Exit status 0: done. 1: too many. 2: could not ask.
    """
    from app import pause
    from app.collector import MOST_LEFTOVERS, Collected, Collector, TooManyLeftoversError
    from app.store.blobs import StorageError
    from app.store.database import open_single
    from app.store.upkeep import open_upkeep

    pause.use(settings.pause_folder)
    found: list[dict[str, Any]] = []
    too_many = False

    def tell(kind: Kind, stored: Stored, age: dt.timedelta) -> None:
        if as_json:
            found.append({"kind": kind.value, "key": stored.key, "bytes": stored.size, "hours": _hours(age)})
        else:
            verb = "would remove" if dry_run else "remove"
            click.echo(f"{verb} {kind.value} {stored.key} ({stored.size:,} bytes, {_hours(age):,} hours old)")

    with _asking():
        try:
            done = Collector(
                open_single(settings.require_database_url()),
                open_upkeep(settings.storage),
                older_than=dt.timedelta(hours=max(SHORTEST_COLLECT_HOURS, settings.collect_after_hours)),
                dry=dry_run,
                most_leftovers=None if dry_run or however_many else MOST_LEFTOVERS,
                found=tell,
            ).run()
        except StorageError as problem:
            raise CouldNotError(f"The stored files could not be read: {problem}.") from None
        except TooManyLeftoversError:
            click.echo(
                f"More than {MOST_LEFTOVERS} files have no batch, and none of them was removed. Is this database an older"
                " one, or does another use the same store? See them with --dry-run; --all removes them.",
                err=True,
            )
            done, too_many = Collected(), True
    removed = {kind.value: number for kind, number in done.removed.items()}
    if as_json:
        click.echo(
            json.dumps(
                {
                    "dry_run": dry_run,
                    "too_many": too_many,
                    "looked_at": done.looked_at,
                    "removed": removed,
                    "bytes": done.size,
                    "found": found,
                }
            )
        )
    if too_many:
        sys.exit(_TOO_MANY)
    if as_json:
        return
    said = "would be removed" if dry_run else "removed"
    click.echo(
        f"{done.looked_at:,} files looked at; {removed['blob']:,} without a batch and {removed['arrival']:,} that never"
        f" arrived {said}, {done.size:,} bytes."
    )


def _compare(settings: Settings, batch_id: UUID | None, tell: Callable[[Difference], None]) -> Compared | None:
    """None where there is no such batch. Raises StorageError and the database's errors."""
    from app.formats.csv import Limits
    from app.store import batches, evidence
    from app.store.blobs import open_blobs
    from app.store.database import open_single
    from app.verification import Verification

    engine = open_single(settings.require_database_url())
    limits = Limits(max_record_bytes=settings.max_record_bytes, max_columns=settings.max_columns)
    with engine.begin() as connection:
        chosen = None if batch_id is None else batches.get(connection, batch_id)
        count, size = evidence.size_of_all(connection) if chosen is None else (1, chosen.file_size_bytes)
    if batch_id is not None and chosen is None:
        return None
    with _bar(count, size) as advance:
        verification = Verification(open_blobs(settings.storage), limits, tell=tell, advance=advance)
        if batch_id is not None:
            with engine.begin() as connection:
                verification.compare_one(connection, batch_id)
        else:
            verification.compare_all(engine)
    return verification.done


@contextmanager
def _asking() -> Iterator[None]:
    """Failures of the database become a sentence; their own text may hold a row."""
    import psycopg
    import sqlalchemy.exc

    try:
        yield
    except (psycopg.Error, sqlalchemy.exc.SQLAlchemyError) as problem:
        raise CouldNotError(
            f"The database could not be asked ({type(getattr(problem, 'orig', None) or problem).__name__}): is DATABASE_URL"
            " right, and migrated?"
        ) from None


@contextmanager
def _bar(batches: int, size: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; its function takes bytes."""
    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(f"{batches:,} batch{'es' if batches != 1 else ''}", total=max(size, 1))
        yield lambda done: progress.advance(task, done)


def _summarise(done: Compared, seconds: float, *, as_json: bool) -> None:
    rate = round(done.rows / seconds) if seconds else 0
    if as_json:
        figures = {name: getattr(done, name) for name in done.__slots__}
        click.echo(json.dumps({**figures, "seconds": round(seconds, 1), "rows_per_second": rate}))
        return
    click.echo(
        f"{done.batches:,} batch{'' if done.batches == 1 else 'es'}, {done.rows:,} rows in {seconds:,.1f} s ({rate:,} rows/s): {done.judgments:,} judgments,"
        f" {done.errors:,} row errors and {done.conflicts:,} conflicts compared, {done.differences:,} differences."
    )
    for number, said in (
        (done.unfinished, "not finished: only their files were checked"),
        (done.not_derivable, "refused for something else than their content: nothing to derive"),
        (done.other_templates, "read by another version of the header rules than this one's"),
    ):
        if number:
            click.echo(f"{number:,} of them {said}.")


def _document(difference: Difference, *, values: bool) -> dict[str, Any]:
    document: dict[str, Any] = {
        "batch_id": str(difference.batch_id),
        "what": difference.what.name.lower(),
        "row_index": difference.row_index,
        "column": difference.column,
    }
    if values:
        document |= {
            name: None if value is None else value if isinstance(value, int | str) else str(value)
            for name, value in (("derived", difference.derived), ("stored", difference.stored))
        }
    return document


def _hours(age: dt.timedelta) -> int:
    return int(age.total_seconds() // 3600)
