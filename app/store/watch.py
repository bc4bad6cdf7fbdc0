"""What the sentinel's checks ask the database: figures, ids and times, by the database's clock; never a cell of a row."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection, text

_SHOWN_IDS = 5
MOST_BOOKS = 500
"""So many batches at most are counted behind a place."""
_MOST_CONTRADICTIONS = 100
_FINISHED = "b.status IN ('completed', 'failed')"


@dataclass(frozen=True, slots=True)
class Overdue:
    """Batches that have been in one state for too long; ``ids`` are the oldest few."""

    status: str
    count: int
    oldest_seconds: float
    ids: list[UUID]


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one source's batches that ended within the window."""

    source: str
    batches: int
    total: int
    invalid: int
    valid: int
    duplicate: int


@dataclass(frozen=True, slots=True)
class Books:
    """A finished batch's own counts beside what is really stored."""

    batch_id: UUID
    completed_at: dt.datetime
    rows: int
    wrong: list[str]
    """Each account that does not balance, with both figures."""


@dataclass(frozen=True, slots=True)
class Place:
    """A batch's place among all finished ones, in the order in which they ended."""

    completed_at: dt.datetime
    batch_id: UUID


@dataclass(frozen=True, slots=True)
class SeenWorker:
    """A worker's row. ``broker_silent_seconds`` is None where it never reached the broker."""

    name: str
    host: str
    concurrency: int
    running: int
    started_at: dt.datetime
    last_seen_at: dt.datetime
    silent_seconds: float
    broker_silent_seconds: float | None
    disk_free_percent: float | None
    replaces: str | None


def clock(connection: Connection) -> dt.datetime:
    """The database's time, in UTC."""
    now: dt.datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return now.astimezone(dt.UTC)


def overdue(connection: Connection, statuses: Collection[str], minutes: float) -> list[Overdue]:
    """Batches that entered one of these states more than ``minutes`` ago, in the order of the states given."""
    rows = connection.execute(
        text(
            """
            SELECT status, count(*), extract(epoch FROM clock_timestamp() - min(state_since)),
                (array_agg(id ORDER BY state_since))[1:CAST(:shown AS integer)]
            FROM intake.batches
            WHERE status = ANY (:statuses) AND state_since < clock_timestamp() - make_interval(secs => :seconds)
            GROUP BY status ORDER BY array_position(CAST(:statuses AS text[]), status)
            """
        ),
        {"statuses": list(statuses), "seconds": 60 * minutes, "shown": _SHOWN_IDS},
    )
    return [Overdue(status, count, float(oldest), list(ids)) for status, count, oldest, ids in rows]


def backlog(connection: Connection, minutes: float) -> Overdue | None:
    """Batches that nobody has taken for ``minutes``, and those that were begun so long ago and are sent back each time.

    A batch whose attempts end early (storage away, disk full) waits a minute at most before the next, so its state is
    always young.
    """
    row = connection.execute(
        text(
            """
            SELECT count(*), extract(epoch FROM clock_timestamp() - min(since)),
                (array_agg(id ORDER BY since))[1:CAST(:shown AS integer)]
            FROM (
                SELECT id, CASE WHEN setbacks > 0 THEN coalesce(started_at, state_since) ELSE state_since END AS since
                FROM intake.batches
                WHERE status = 'uploaded' OR (status IN ('staging', 'validating', 'inserting') AND setbacks > 0)
            ) AS waiting
            WHERE since < clock_timestamp() - make_interval(secs => :seconds)
            """
        ),
        {"seconds": 60 * minutes, "shown": _SHOWN_IDS},
    ).one()
    count, oldest, ids = row
    return Overdue("uploaded", count, float(oldest), list(ids)) if count else None


def rows_of_last(connection: Connection, minutes: int) -> list[Rows]:
    """By source, what the batches read that ended within the last ``minutes``, failed ones included."""
    rows = connection.execute(
        text(
            """
            SELECT source, count(*), sum(row_count_total), sum(row_count_invalid), sum(row_count_valid),
                sum(row_count_duplicate)
            FROM intake.batches
            WHERE completed_at > statement_timestamp() - make_interval(mins => :minutes) AND row_count_total > 0
            GROUP BY source ORDER BY source
            """
        ),
        {"minutes": minutes},
    )
    return [Rows(source, *(int(figure) for figure in figures)) for source, *figures in rows]


def books_of_last(connection: Connection, minutes: int, *, most_rows: int) -> list[Books]:
    """The books of the batches that ended within the last ``minutes``, the newest up to ``most_rows`` rows of them."""
    return _books(
        connection,
        f"""
        b.id IN (
            SELECT id FROM (
                SELECT b.id, sum(b.row_count_total) OVER (ORDER BY b.completed_at DESC, b.id DESC) - b.row_count_total
                    AS rows_before
                FROM intake.batches b
                WHERE {_FINISHED} AND b.completed_at > statement_timestamp() - make_interval(mins => :minutes)
            ) AS counted WHERE rows_before <= :most
        )
        """,
        {"minutes": minutes, "most": most_rows},
    )


def books_of(connection: Connection, batch_ids: Sequence[UUID]) -> list[Books]:
    """The books of these batches, as far as they are finished."""
    return _books(connection, "b.id = ANY (:ids)", {"ids": list(batch_ids)})


def books_that_contradict_themselves(connection: Connection) -> list[Books]:
    """The books of some batches whose own counts do not add up, whenever they ended."""
    return _books(
        connection,
        f"""
        b.id IN (
            SELECT b.id FROM intake.batches b
            WHERE {_FINISHED} AND (b.row_count_total <> b.row_count_valid + b.row_count_invalid
                OR (b.status = 'completed' AND b.row_count_valid <> b.row_count_inserted + b.row_count_duplicate))
            LIMIT {_MOST_CONTRADICTIONS}
        )
        """,
        {},
    )


def books_after(connection: Connection, after: Place | None, *, most_rows: int) -> list[Books]:
    """The books of the batches that ended next behind a place, or first of all.

    As many as have ``most_rows`` rows together, at least one, and at most MOST_BOOKS.
    """
    return _books(
        connection,
        f"""
        b.id IN (
            SELECT id FROM (
                SELECT id, sum(row_count_total) OVER (ORDER BY completed_at, id) - row_count_total AS rows_before
                FROM (
                    SELECT b.id, b.completed_at, b.row_count_total FROM intake.batches b
                    WHERE {_FINISHED}
                        AND (b.completed_at, b.id) > (coalesce(:at, '-infinity'::timestamptz), CAST(:id AS uuid))
                    ORDER BY b.completed_at, b.id LIMIT :batches
                ) AS later
            ) AS counted WHERE rows_before <= :most
        )
        """,
        {
            "at": None if after is None else after.completed_at,
            "id": UUID(int=0) if after is None else after.batch_id,
            "batches": MOST_BOOKS,
            "most": most_rows,
        },
    )


def _books(connection: Connection, which: str, values: dict[str, object]) -> list[Books]:
    rows = connection.execute(
        text(
            f"""
            SELECT b.id, b.completed_at, b.row_count_total, array_remove(ARRAY[
                CASE WHEN b.row_count_total <> b.row_count_valid + b.row_count_invalid THEN
                    format('total %s is not valid %s + invalid %s',
                        b.row_count_total, b.row_count_valid, b.row_count_invalid) END,
                CASE WHEN b.status = 'completed' AND b.row_count_valid <> b.row_count_inserted + b.row_count_duplicate THEN
                    format('valid %s is not inserted %s + duplicate %s',
                        b.row_count_valid, b.row_count_inserted, b.row_count_duplicate) END,
                CASE WHEN errors.stored <> b.row_count_invalid THEN
                    format('row errors stored %s, invalid %s', errors.stored, b.row_count_invalid) END,
                CASE WHEN b.status = 'completed' AND judgments.stored <> b.row_count_inserted THEN
                    format('judgments stored %s, inserted %s', judgments.stored, b.row_count_inserted) END,
                CASE WHEN b.status = 'completed' AND conflicts.stored <> b.row_count_duplicate THEN
                    format('duplicates stored %s, duplicate %s', conflicts.stored, b.row_count_duplicate) END
            ], NULL)
            FROM intake.batches b,
                LATERAL (SELECT count(*) AS stored FROM intake.row_errors e WHERE e.batch_id = b.id) AS errors,
                LATERAL (SELECT count(*) AS stored FROM intake.row_conflicts c WHERE c.batch_id = b.id) AS conflicts,
                LATERAL (
                    SELECT count(*) AS stored FROM public.judgments j
                    WHERE j.id BETWEEN b.first_judgment_id AND b.last_judgment_id AND j.batch_id = b.id
                ) AS judgments
            WHERE {_FINISHED} AND {which}
            ORDER BY b.completed_at, b.id
            """
        ),
        values,
    )
    return [
        Books(batch_id, completed_at.astimezone(dt.UTC), total, list(wrong))
        for batch_id, completed_at, total, wrong in rows
    ]


def seen_workers(connection: Connection) -> list[SeenWorker]:
    """Every worker that has not signed off, with the number of batches it holds."""
    rows = connection.execute(
        text(
            """
            SELECT w.name, w.host, w.concurrency, w.started_at, w.last_seen_at,
                extract(epoch FROM clock_timestamp() - w.last_seen_at) AS silent_seconds,
                extract(epoch FROM clock_timestamp() - w.broker_seen_at) AS broker_silent_seconds,
                w.disk_free_percent, w.replaces,
                (SELECT count(*) FROM intake.batches b WHERE b.status IN ('staging', 'validating', 'inserting')
                    AND b.lease_until > clock_timestamp() AND starts_with(b.lease_owner, w.name)) AS running
            FROM ops.workers w ORDER BY w.name
            """
        )
    ).mappings()
    return [
        SeenWorker(
            name=row["name"],
            host=row["host"],
            concurrency=row["concurrency"],
            running=row["running"],
            started_at=row["started_at"].astimezone(dt.UTC),
            last_seen_at=row["last_seen_at"].astimezone(dt.UTC),
            silent_seconds=float(row["silent_seconds"]),
            broker_silent_seconds=None if row["broker_silent_seconds"] is None else float(row["broker_silent_seconds"]),
            disk_free_percent=None if row["disk_free_percent"] is None else float(row["disk_free_percent"]),
            replaces=row["replaces"],
        )
        for row in rows
    ]


def free_disks(connection: Connection, *, silent_seconds: float) -> dict[str, float]:
    """By host, the free share in percent of the fullest disk, as the workers tell that were seen within so many seconds."""
    rows = connection.execute(
        text(
            """
            SELECT host, min(disk_free_percent) FROM ops.workers
            WHERE disk_free_percent IS NOT NULL
                AND last_seen_at >= clock_timestamp() - make_interval(secs => :silent)
            GROUP BY host ORDER BY host
            """
        ),
        {"silent": silent_seconds},
    )
    return {host: float(percent) for host, percent in rows}


def not_replaced(dead: Sequence[SeenWorker], alive: Sequence[SeenWorker]) -> list[SeenWorker]:
    """The dead ones in whose place nobody has started on their host: one that lives replaces one that died before it."""
    free = sorted((worker for worker in alive if not worker.replaces), key=lambda worker: worker.started_at)
    left = []
    for worker in sorted(dead, key=lambda one: one.last_seen_at):
        heir = next(
            (one for one in free if one.host == worker.host and one.started_at > worker.last_seen_at),
            None,
        )
        if heir is None:
            left.append(worker)
        else:
            free.remove(heir)
    return left


def beat(connection: Connection, name: str, *, begins: bool = False) -> None:
    """A sign of life of what there is one only; ``begins`` with the first of a process."""
    connection.execute(
        text(
            """
            INSERT INTO ops.heartbeats (name) VALUES (:name)
            ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp(),
                started_at = CASE WHEN :begins THEN clock_timestamp() ELSE heartbeats.started_at END
            """
        ),
        {"name": name, "begins": begins},
    )


def silent_seconds(connection: Connection, name: str) -> float | None:
    """The age of the last sign of life, None where there never was one."""
    age = connection.execute(
        text("SELECT extract(epoch FROM clock_timestamp() - seen_at) FROM ops.heartbeats WHERE name = :name"),
        {"name": name},
    ).scalar_one_or_none()
    return None if age is None else float(age)


def take_turn(connection: Connection, name: str, *, seconds: float) -> bool:
    """Whether ``seconds`` have passed since this was last granted, to whomever; if so it is granted now."""
    granted = connection.execute(
        text(
            """
            INSERT INTO ops.heartbeats (name) VALUES (:name)
            ON CONFLICT (name) DO UPDATE SET seen_at = clock_timestamp()
                WHERE heartbeats.seen_at <= clock_timestamp() - make_interval(secs => :seconds)
            """
        ),
        {"name": name, "seconds": seconds},
    )
    return granted.rowcount > 0
