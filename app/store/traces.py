"""What runs of the end-to-end smoke test leave in the database and the blob store, and how the owner removes it again.

Judgments are evidence, and the application may delete neither them nor a batch. So it is the owner who removes, and only
what cannot be anything else: a batch made with the key of the run, of the run's file name, all of whose rows have the run's
case numbers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import ProgrammingError, SQLAlchemyError

from app.batch import UNFINISHED
from app.store import batches, keys
from app.store.blobs import Blobs, StorageError, key_of

LEFT_BEHIND_MINUTES = 10
"""A run is over long before that; what it left by then was left by a killed one."""

_NAME = "dragonfly-smoke-"
_NAMES = f"^{_NAME}[0-9a-f]{{8}}(-[0-9a-f]{{4}}){{3}}-[0-9a-f]{{12}}$"
_MAKER = "dragonfly smoke e2e"
_APPLICATION = "service_role"
_KEPT_FROM_IT = ("intake.batches", "public.judgments", "ops.api_keys")
"""Of what is removed, the tables from which the application may not delete."""
_TABLES = (*_KEPT_FROM_IT, "intake.row_errors", "intake.row_conflicts")


class MayNotRemoveError(Exception):
    """DATABASE_DIRECT_URL's user may not remove what a run would leave; one sentence with what to do."""


class NotRemovedError(Exception):
    """What stands is not what the run is known to have left, so nothing was removed. One sentence, figures and ids only."""


@dataclass(frozen=True, slots=True)
class Run:
    """One run of the test, by whose id everything it makes is named."""

    id: UUID

    @classmethod
    def new(cls) -> Run:
        return cls(uuid4())

    @property
    def name(self) -> str:
        """Of the run's API key, and by that the created_by of its batches."""
        return f"{_NAME}{self.id}"

    @property
    def filename(self) -> str:
        return f"{self.name}.csv"

    @property
    def case_prefix(self) -> str:
        """With which every case number of the run begins."""
        return f"SMOKE-{self.id}-".upper()


@dataclass(frozen=True, slots=True)
class Removed:
    """How much of a run was removed. ``lost_blobs`` are keys whose file could not be, to be removed by hand."""

    batch_ids: Sequence[UUID]
    judgments: int
    row_errors: int
    conflicts: int
    blobs: int
    lost_blobs: Sequence[str]


def begin(connection: Connection, run: Run) -> str:
    """Make the run's API key and return its plaintext. Raises MayNotRemoveError."""
    with _as_remover(connection):
        may_not = [
            table
            for table in _TABLES
            if not connection.scalar(text("SELECT has_table_privilege(:table, 'DELETE')"), {"table": table})
        ]
        if may_not:
            raise MayNotRemoveError(
                f"DATABASE_DIRECT_URL's user may not delete from {', '.join(may_not)}: it has to be the tables' owner."
            )
        _, plaintext = keys.create(connection, run.name, created_by=_MAKER)
    return plaintext


def left_behind(connection: Connection) -> list[Run]:
    """Earlier runs that could not clean up: they were killed, or had nothing left to do it with."""
    with _as_remover(connection):
        found = connection.execute(
            text(
                """
                SELECT name FROM (
                    SELECT created_by, created_at FROM intake.batches
                    WHERE created_by ~ :names AND filename = created_by || '.csv'
                    UNION ALL
                    SELECT name, created_at FROM ops.api_keys WHERE name ~ :names AND created_by = :maker
                ) AS seen (name, created_at)
                GROUP BY name HAVING max(created_at) < clock_timestamp() - make_interval(mins => :minutes)
                ORDER BY name
                """
            ),
            {"names": _NAMES, "maker": _MAKER, "minutes": LEFT_BEHIND_MINUTES},
        )
        return [Run(UUID(name.removeprefix(_NAME))) for (name,) in found]


def stop(connection: Connection, run: Run) -> list[UUID]:
    """Cancel what of the run is unfinished, so that no worker writes any more of it; returns those batches.

    A transaction of an attempt at them that is still open is ended first: it may be that of a worker that hangs.
    """
    with _as_remover(connection):
        unfinished = [batch.id for batch in _batches_of(connection, run) if batch.status in UNFINISHED]
        if unfinished:
            _end_backends(connection, unfinished)
        for batch_id in unfinished:
            batches.cancel(connection, batch_id)
    return unfinished


def remove(connection: Connection, blobs: Blobs, run: Run) -> Removed:
    """Remove all of a run that ``stop`` has seen to, its key too; counted, and compared with the batches' own counts.

    The caller commits. Raises NotRemovedError: then it rolls back.
    """
    with _as_remover(connection):
        for file_hash in sorted({batch.file_hash for batch in _batches_of(connection, run)}):
            batches.lock_hash(connection, file_hash)
        own = _batches_of(connection, run, lock=True)
        ids = [batch.id for batch in own]
        _require_only_its_rows(connection, run, ids)
        removed = [
            _delete(connection, "public.judgments", f"{_STORED} AND starts_with(case_number, :prefix)", run, ids),
            _delete(connection, "intake.row_errors", "batch_id = ANY (:ids)", run, ids),
            _delete(connection, "intake.row_conflicts", "batch_id = ANY (:ids)", run, ids),
            _delete(connection, "intake.batches", "id = ANY (:ids)", run, ids),
        ]
        expected = [
            sum(batch.row_count_inserted for batch in own),
            sum(batch.row_count_invalid for batch in own),
            sum(batch.row_count_duplicate for batch in own),
            len(own),
        ]
        if removed != expected:
            what = ("judgments", "row errors", "conflicts", "batches")
            wrong = [
                f"{found} {name} where its batches count {counted}"
                for name, found, counted in zip(what, removed, expected, strict=True)
                if found != counted
            ]
            raise NotRemovedError(f"run {run.id} has {', '.join(wrong)}; {_named(ids)}")
        _require_nothing_left(connection, run, ids)
        connection.execute(
            text("DELETE FROM ops.api_keys WHERE name = :name AND created_by = :maker"),
            {"name": run.name, "maker": _MAKER},
        )
        judgments, row_errors, conflicts, _ = removed
        gone, lost = _remove_blobs(connection, blobs, own)
    return Removed(ids, judgments, row_errors, conflicts, gone, lost)


_STORED = """
    batch_id = ANY (:ids)
    AND id BETWEEN (SELECT min(first_judgment_id) FROM intake.batches WHERE id = ANY (:ids))
        AND (SELECT max(last_judgment_id) FROM intake.batches WHERE id = ANY (:ids))
"""
"""The judgments of batches, by the blocks of ids that they reserved: judgments have no index on batch_id."""
_FOREIGN = f"""
SELECT (SELECT count(*) FROM public.judgments WHERE {_STORED} AND NOT starts_with(case_number, :prefix))
    + (SELECT count(*) FROM intake.row_conflicts WHERE batch_id = ANY (:ids) AND NOT starts_with(case_number, :prefix))
    + (SELECT count(*) FROM intake.row_errors WHERE batch_id = ANY (:ids)
        AND NOT starts_with(upper(coalesce(raw_data ->> 'case_number', '')), :prefix))
"""


def _require_only_its_rows(connection: Connection, run: Run, ids: list[UUID]) -> None:
    foreign = connection.execute(text(_FOREIGN), {"ids": ids, "prefix": run.case_prefix}).scalar_one()
    if foreign:
        raise NotRemovedError(f"run {run.id} has {foreign} rows without its case numbers; {_named(ids)}")
    others = connection.execute(
        text("SELECT count(*) FROM intake.batches WHERE first_batch_id = ANY (:ids) AND NOT id = ANY (:ids)"),
        {"ids": ids},
    ).scalar_one()
    if others:
        raise NotRemovedError(f"{others} batches that are not run {run.id}'s were made of its file; {_named(ids)}")


def _require_nothing_left(connection: Connection, run: Run, ids: list[UUID]) -> None:
    # The index on case numbers is in byte order, and '.' follows '-'.
    left = connection.execute(
        text("SELECT count(*) FROM public.judgments WHERE case_number >= :prefix AND case_number < :end"),
        {"prefix": run.case_prefix, "end": f"{run.case_prefix[:-1]}."},
    ).scalar_one()
    if left:
        raise NotRemovedError(f"{left} judgments with run {run.id}'s case numbers are none of its own; {_named(ids)}")


def _remove_blobs(connection: Connection, blobs: Blobs, removed: Sequence[Row[Any]]) -> tuple[int, list[str]]:
    """The files that no other batch has; the caller holds the locks on their hashes."""
    gone, lost = 0, []
    for file_hash, key in {batch.file_hash: batch.storage_key or key_of(batch.file_hash) for batch in removed}.items():
        if connection.scalar(
            text("SELECT EXISTS (SELECT FROM intake.batches WHERE file_hash = :hash)"), {"hash": file_hash}
        ):
            continue
        try:
            blobs.remove(key)
        except StorageError:
            # The rows count in the statistics, the file does not: they go without it.
            lost.append(key)
        else:
            gone += 1
    return gone, lost


def _batches_of(connection: Connection, run: Run, *, lock: bool = False) -> Sequence[Row[Any]]:
    return connection.execute(
        text(
            f"""
            SELECT id, status, file_hash, storage_key, row_count_inserted, row_count_invalid, row_count_duplicate
            FROM intake.batches WHERE created_by = :name AND filename = :filename ORDER BY id {"FOR UPDATE" if lock else ""}
            """
        ),
        {"name": run.name, "filename": run.filename},
    ).all()


def _delete(connection: Connection, table: str, which: str, run: Run, ids: list[UUID]) -> int:
    values = {"ids": ids, "prefix": run.case_prefix}
    return connection.execute(text(f"DELETE FROM {table} WHERE {which}"), values).rowcount


def _end_backends(connection: Connection, ids: list[UUID]) -> None:
    savepoint = connection.begin_nested()
    try:
        connection.execute(
            text(
                """
                SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity
                WHERE application_name ~ '^dragonfly:[0-9a-f-]+:[0-9]+$'
                    AND split_part(application_name, ':', 2) = ANY (:ids)
                """
            ),
            {"ids": [str(batch_id) for batch_id in ids]},
        )
    except SQLAlchemyError:
        # Whoever may not end them waits for them.
        savepoint.rollback()
    else:
        savepoint.commit()


@contextmanager
def _as_remover(connection: Connection) -> Iterator[None]:
    """For the block, be somebody whom row level security lets see the rows, and who may delete them.

    It is forced on the owner too. One who is no superuser and has no BYPASSRLS becomes the application's role, which is
    lent the right to delete; nobody else sees that loan, for it is given and taken back in one transaction. After an
    error the caller's rollback takes it back.
    """
    sees_all = connection.scalar(
        text("SELECT rolsuper OR rolbypassrls FROM pg_roles WHERE rolname = current_user"),
    )
    if sees_all:
        yield
        return
    lent = [
        table
        for table in _KEPT_FROM_IT
        if not connection.scalar(
            text("SELECT has_table_privilege(:role, :table, 'DELETE')"), {"role": _APPLICATION, "table": table}
        )
    ]
    try:
        if lent:
            connection.execute(text(f"GRANT DELETE ON {', '.join(lent)} TO {_APPLICATION}"))
        connection.execute(text(f"SET LOCAL ROLE {_APPLICATION}"))
    except ProgrammingError:
        raise MayNotRemoveError(
            "Row level security hides the rows from DATABASE_DIRECT_URL's user, so it could not remove them: as an "
            f"administrator, GRANT {_APPLICATION} TO it, or give it BYPASSRLS."
        ) from None
    yield
    connection.execute(text("SET LOCAL ROLE NONE"))
    if lent:
        connection.execute(text(f"REVOKE DELETE ON {', '.join(lent)} FROM {_APPLICATION}"))


def _named(ids: Sequence[UUID]) -> str:
    return f"its batches: {', '.join(map(str, ids)) or 'none'}"
