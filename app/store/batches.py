"""The batches: how one is made, claimed, kept alive, moved from state to state and ended. The database's clock only.

Every write of an attempt carries its fence. A write that finds another fence, or a batch that is no longer in a running
state, changes nothing and raises LostClaimError.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection, Row, text

from app.batch import MAX_SILENT_ATTEMPTS, State
from app.errors import CATALOGUE
from app.store.database import end_when_idle

_RUNNING = "('staging', 'validating', 'inserting')"
_UNFINISHED = "('uploaded', 'staging', 'validating', 'awaiting_approval', 'inserting')"
_EXPIRED = f"(status IN {_RUNNING} AND lease_until < clock_timestamp())"
_WAITING = "(status = 'uploaded' AND (not_before IS NULL OR not_before <= clock_timestamp()))"
CLAIMABLE = f"({_WAITING} OR {_EXPIRED})"
"""A condition on intake.batches: the batch waits for a worker, or its worker has fallen silent."""

FIRST_BACKOFF_SECONDS = 1
LONGEST_BACKOFF_SECONDS = 60
HINT_PATIENCE_SECONDS = 30
"""How long a published hint may take before the reconciler publishes it again."""
_HINTING_SECONDS = 10
"""Far more than the broker takes for the hints, or for its timeouts."""


class LostClaimError(Exception):
    """The attempt's claim is gone: taken over, cancelled, or released. Nothing was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """One row of intake.batches."""

    id: UUID
    filename: str
    source: str
    file_hash: str
    storage_key: str | None
    file_size_bytes: int
    status: State
    error_threshold_percent: int
    rejection_code: str | None
    rejection_reason: str | None
    row_count_total: int
    row_count_valid: int
    row_count_invalid: int
    row_count_inserted: int
    row_count_duplicate: int
    row_count_conflict: int
    rows_processed: int
    bytes_processed: int
    parse_duration_ms: int | None
    db_duration_ms: int | None
    reading: Mapping[str, Any]
    first_judgment_id: int | None
    last_judgment_id: int | None
    created_at: dt.datetime
    created_by: str | None
    started_at: dt.datetime | None
    completed_at: dt.datetime | None
    forced: bool
    first_batch_id: UUID | None
    priority: str
    state_since: dt.datetime
    fence: int
    lease_until: dt.datetime | None
    lease_owner: str | None
    attempts: int
    setbacks: int
    not_before: dt.datetime | None
    hinted_at: dt.datetime | None

    @classmethod
    def from_row(cls, row: Row[Any]) -> Self:
        values = {name: row._mapping[name] for name in cls.__slots__}
        for name, value in values.items():
            if isinstance(value, dt.datetime):
                values[name] = value.astimezone(dt.UTC)
        return cls(**{**values, "status": State(values["status"])})

    @property
    def today(self) -> dt.date:
        """The day by which dates are judged, the same in every attempt: the UTC date of created_at."""
        return self.created_at.astimezone(dt.UTC).date()


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """What an attempt found and did, as it is written to the batch at its end."""

    total: int = 0
    valid: int = 0
    invalid: int = 0
    inserted: int = 0
    duplicate: int = 0
    conflict: int = 0
    parse_duration_ms: int | None = None
    db_duration_ms: int | None = None
    first_judgment_id: int | None = None
    last_judgment_id: int | None = None


def get(connection: Connection, batch_id: UUID) -> Batch | None:
    """The batch, or None."""
    return _one(connection, "SELECT * FROM intake.batches WHERE id = :id", id=batch_id)


def is_held(connection: Connection, batch_id: UUID, fence: int) -> bool:
    """Whether an attempt with this fence holds the batch."""
    return bool(
        connection.scalar(
            text(
                f"SELECT EXISTS (SELECT FROM intake.batches WHERE id = :id AND fence = :fence AND status IN {_RUNNING})"
            ),
            {"id": batch_id, "fence": fence},
        )
    )


def first_of(connection: Connection, file_hash: str) -> Batch | None:
    """The first, unforced batch of these bytes, or None."""
    return _one(connection, "SELECT * FROM intake.batches WHERE file_hash = :hash AND NOT forced", hash=file_hash)


def lock_hash(connection: Connection, file_hash: str) -> None:
    """Hold, to the end of the transaction, the lock that keeps the blob of this hash from being collected."""
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:hash, 0))"), {"hash": file_hash})


def try_lock_hash(connection: Connection, file_hash: str) -> bool:
    """Hold the same lock unless somebody else does, which is said at once."""
    return bool(
        connection.scalar(text("SELECT pg_try_advisory_xact_lock(hashtextextended(:hash, 0))"), {"hash": file_hash})
    )


def insert(
    connection: Connection,
    *,
    filename: str,
    source: str,
    file_hash: str,
    storage_key: str,
    file_size_bytes: int,
    error_threshold_percent: int,
    priority: str,
    created_by: str,
    first_batch_id: UUID | None,
) -> Batch:
    """Add an uploaded batch; one with a ``first_batch_id`` is forced. It counts as hinted: its hint follows at once."""
    return _require(
        _one(
            connection,
            """
            INSERT INTO intake.batches (filename, source, file_hash, storage_key, file_size_bytes, priority, created_by,
                error_threshold_percent, first_batch_id, forced, hinted_at, created_at, state_since)
            VALUES (:filename, :source, :file_hash, :storage_key, :file_size_bytes, :priority, :created_by,
                :error_threshold_percent, :first_batch_id, CAST(:first_batch_id AS uuid) IS NOT NULL,
                clock_timestamp(), clock_timestamp(), clock_timestamp())
            RETURNING *
            """,
            filename=filename,
            source=source,
            file_hash=file_hash,
            storage_key=storage_key,
            file_size_bytes=file_size_bytes,
            priority=priority,
            created_by=created_by,
            error_threshold_percent=error_threshold_percent,
            first_batch_id=first_batch_id,
        )
    )


def end_stale_backends(connection: Connection, batch_id: UUID | None = None) -> int:
    """End connections on which an attempt that lost its lease still holds a transaction open; returns their number.

    Of one batch before it is taken over: else a stopped worker's uncommitted keys would block whoever does. Of all
    batches before they are looked for: what an attempt has locked that stopped just before its commit is passed over.
    """
    return int(
        connection.scalar(
            text(
                f"""
                WITH loads AS MATERIALIZED (
                    SELECT pid, split_part(application_name, ':', 2) AS batch_id,
                        split_part(application_name, ':', 3) AS fence
                    FROM pg_stat_activity WHERE application_name ~ '^dragonfly:[0-9a-f-]{{36}}:[0-9]{{1,18}}$'
                )
                SELECT count(pg_terminate_backend(l.pid, 5000))
                FROM loads l JOIN intake.batches b ON b.id = l.batch_id::uuid AND l.fence::bigint <= b.fence
                WHERE (CAST(:id AS uuid) IS NULL OR b.id = :id)
                    AND (b.status = 'uploaded' OR (b.status IN {_RUNNING} AND b.lease_until < clock_timestamp()))
                """
            ),
            {"id": batch_id},
        )
        or 0
    )


def hold(connection: Connection, batch_id: UUID, *, if_claimable: bool = False) -> Batch | None:
    """The batch, which nobody else changes before the transaction ends; None where there is none."""
    condition = f"AND {CLAIMABLE}" if if_claimable else ""
    return _one(connection, f"SELECT * FROM intake.batches WHERE id = :id {condition} FOR NO KEY UPDATE", id=batch_id)


def claim(connection: Connection, batch_id: UUID, *, owner: str, lease_seconds: int) -> Batch | None:
    """Take the batch for one attempt, with a higher fence and a fresh lease; None where it is not to be had.

    A batch whose attempts have ended without a word MAX_SILENT_ATTEMPTS times fails as POISONED instead.
    """
    poisoned = connection.execute(
        text(
            f"""
            UPDATE intake.batches SET status = 'failed', rejection_code = 'POISONED', rejection_reason = :reason,
                fence = fence + 1, lease_until = NULL, lease_owner = NULL, completed_at = clock_timestamp()
            WHERE id = :id AND attempts >= :most AND {CLAIMABLE}
            """
        ),
        {"id": batch_id, "most": MAX_SILENT_ATTEMPTS, "reason": CATALOGUE["POISONED"].sentence},
    )
    if poisoned.rowcount:
        return None
    return _one(
        connection,
        f"""
        UPDATE intake.batches SET status = 'staging', fence = fence + 1, attempts = attempts + 1,
            lease_until = clock_timestamp() + make_interval(secs => :lease), lease_owner = :owner,
            rows_processed = 0, bytes_processed = 0, not_before = NULL, hinted_at = NULL,
            started_at = coalesce(started_at, clock_timestamp())
        WHERE id = :id AND {CLAIMABLE}
        RETURNING *
        """,
        id=batch_id,
        owner=owner,
        lease=lease_seconds,
    )


def renew(connection: Connection, batch: Batch, *, lease_seconds: int, rows: int, bytes_read: int) -> None:
    """Extend the lease and show the progress that earned it. Raises LostClaimError."""
    _write(
        connection,
        batch,
        "lease_until = clock_timestamp() + make_interval(secs => :lease),"
        " rows_processed = :rows, bytes_processed = :bytes",
        lease=lease_seconds,
        rows=rows,
        bytes=bytes_read,
    )


def enter(connection: Connection, batch: Batch, state: State) -> None:
    """Move to the next running state. Raises LostClaimError."""
    _write(connection, batch, "status = :state", state=state.value)


def complete(connection: Connection, batch: Batch, counts: Counts, reading: Mapping[str, Any]) -> None:
    """The last statement of the loading transaction. Raises LostClaimError: then the caller rolls all of it back."""
    _end(connection, batch, counts, reading, status=State.COMPLETED, code=None, reason=None)


def fail(
    connection: Connection, batch: Batch, counts: Counts, reading: Mapping[str, Any], *, code: str, reason: str
) -> None:
    """Refuse the whole file; ``reason`` in words. Raises LostClaimError."""
    _end(connection, batch, counts, reading, status=State.FAILED, code=code, reason=reason)


def release(connection: Connection, batch: Batch, *, counts_against_batch: bool) -> bool:
    """Give the claim back, to be taken again after a backoff that doubles up to 60 s; False where it is gone already.

    An attempt that its surroundings ended (database, storage, disk, shutdown) does not count against the batch.
    """
    done = connection.execute(
        text(
            f"""
            UPDATE intake.batches SET status = 'uploaded', lease_until = NULL, lease_owner = NULL, hinted_at = NULL,
                attempts = attempts - :returned, setbacks = setbacks + 1,
                not_before = clock_timestamp()
                    + make_interval(secs => least(:longest, :first * 2 ^ least(setbacks, 10))::double precision)
            WHERE id = :id AND fence = :fence AND status IN {_RUNNING}
            """
        ),
        {
            "id": batch.id,
            "fence": batch.fence,
            "returned": 0 if counts_against_batch else 1,
            "first": FIRST_BACKOFF_SECONDS,
            "longest": LONGEST_BACKOFF_SECONDS,
        },
    )
    return bool(done.rowcount)


def release_all_of(connection: Connection, owner_prefix: str) -> list[Batch]:
    """On a worker's shutdown: give back, at once and uncounted, every claim of its processes.

    Returns the batches as they were held.
    """
    rows = connection.execute(
        text(
            f"SELECT * FROM intake.batches WHERE status IN {_RUNNING} AND starts_with(lease_owner, :prefix)"
            " FOR NO KEY UPDATE"
        ),
        {"prefix": owner_prefix},
    )
    held = [Batch.from_row(row) for row in rows]
    connection.execute(
        text(
            """
            UPDATE intake.batches SET status = 'uploaded', lease_until = NULL, lease_owner = NULL, hinted_at = NULL,
                attempts = attempts - 1, not_before = NULL
            WHERE id = ANY (:ids)
            """
        ),
        {"ids": [batch.id for batch in held]},
    )
    return held


def take_unhinted(connection: Connection, *, limit: int = 100) -> list[tuple[UUID, str]]:
    """Claimable batches whose hint is missing or 30 s old, with their priority; they count as hinted from the commit on.

    Several reconcilers share the work: each skips what another one has locked. A claim waits for the commit, and the
    server ends a transaction whose reconciler stands still, so that nobody waits for long.
    """
    end_when_idle(connection, _HINTING_SECONDS)
    rows = connection.execute(
        text(
            f"""
            WITH due AS (
                SELECT id FROM intake.batches
                WHERE {CLAIMABLE}
                    AND (hinted_at IS NULL OR hinted_at < clock_timestamp() - make_interval(secs => :patience))
                ORDER BY created_at
                FOR NO KEY UPDATE SKIP LOCKED LIMIT :limit
            )
            UPDATE intake.batches b SET hinted_at = clock_timestamp() FROM due WHERE b.id = due.id
            RETURNING b.id, b.priority
            """
        ),
        {"limit": limit, "patience": HINT_PATIENCE_SECONDS},
    )
    return [(row.id, row.priority) for row in rows]


def forget_hint(connection: Connection, batch_id: UUID) -> None:
    """The hint was not published after all: the next reconciler need not wait for it."""
    connection.execute(text("UPDATE intake.batches SET hinted_at = NULL WHERE id = :id"), {"id": batch_id})


def next_claimable(connection: Connection) -> UUID | None:
    """The batch to work on next where no broker hands them out: by priority, then by age."""
    found: UUID | None = connection.scalar(
        text(
            f"""
            SELECT id FROM intake.batches WHERE {CLAIMABLE}
            ORDER BY array_position(ARRAY['high', 'normal', 'low'], priority), created_at LIMIT 1
            """
        )
    )
    return found


def retry(connection: Connection, batch_id: UUID, error_threshold_percent: int | None = None) -> Batch | None:
    """Put a failed batch back to uploaded, its errors, counts and attempts cleared; None where it is not failed."""
    batch = _one(
        connection,
        """
        UPDATE intake.batches SET status = 'uploaded', rejection_code = NULL, rejection_reason = NULL,
            error_threshold_percent = coalesce(:threshold, error_threshold_percent), fence = fence + 1,
            row_count_total = 0, row_count_valid = 0, row_count_invalid = 0, row_count_inserted = 0,
            row_count_duplicate = 0, row_count_conflict = 0, rows_processed = 0, bytes_processed = 0,
            parse_duration_ms = NULL, db_duration_ms = NULL, reading = '{}', attempts = 0, setbacks = 0,
            not_before = NULL, hinted_at = clock_timestamp(), started_at = NULL, completed_at = NULL
        WHERE id = :id AND status = 'failed'
        RETURNING *
        """,
        id=batch_id,
        threshold=error_threshold_percent,
    )
    if batch is not None:
        connection.execute(text("DELETE FROM intake.row_errors WHERE batch_id = :id"), {"id": batch_id})
        connection.execute(text("DELETE FROM intake.row_conflicts WHERE batch_id = :id"), {"id": batch_id})
    return batch


def cancel(connection: Connection, batch_id: UUID) -> Batch | None:
    """End an unfinished batch; its attempt, if any, can write nothing more. None where it is finished or unknown."""
    return _one(
        connection,
        f"""
        UPDATE intake.batches SET status = 'cancelled', fence = fence + 1, lease_until = NULL, lease_owner = NULL,
            completed_at = clock_timestamp()
        WHERE id = :id AND status IN {_UNFINISHED}
        RETURNING *
        """,
        id=batch_id,
    )


def _end(
    connection: Connection,
    batch: Batch,
    counts: Counts,
    reading: Mapping[str, Any],
    *,
    status: State,
    code: str | None,
    reason: str | None,
) -> None:
    values = dataclasses.asdict(counts)
    values["rows"] = counts.total
    _write(
        connection,
        batch,
        """
        status = :status, rejection_code = :code, rejection_reason = :reason, reading = CAST(:reading AS jsonb),
        row_count_total = :total, row_count_valid = :valid, row_count_invalid = :invalid,
        row_count_inserted = :inserted, row_count_duplicate = :duplicate, row_count_conflict = :conflict,
        rows_processed = :rows, bytes_processed = file_size_bytes,
        parse_duration_ms = :parse_duration_ms, db_duration_ms = :db_duration_ms,
        first_judgment_id = :first_judgment_id, last_judgment_id = :last_judgment_id,
        lease_until = NULL, lease_owner = NULL, setbacks = 0, completed_at = clock_timestamp()
        """,
        status=status.value,
        code=code,
        reason=reason,
        reading=json.dumps(reading),
        **values,
    )


def _write(connection: Connection, batch: Batch, assignments: str, **values: Any) -> None:
    done = connection.execute(
        text(f"UPDATE intake.batches SET {assignments} WHERE id = :id AND fence = :fence AND status IN {_RUNNING}"),
        {"id": batch.id, "fence": batch.fence, **values},
    )
    if not done.rowcount:
        raise LostClaimError(f"batch {batch.id}: fence {batch.fence} no longer holds it")


def _one(connection: Connection, statement: str, **values: Any) -> Batch | None:
    row = connection.execute(text(statement), values).one_or_none()
    return None if row is None else Batch.from_row(row)


def _require(batch: Batch | None) -> Batch:
    if batch is None:
        raise RuntimeError("the statement returned no batch")
    return batch
